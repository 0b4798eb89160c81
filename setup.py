"""Builds the compiled core. All other settings of the package are in pyproject.toml.

FASTSERVERSTATE_TRACE=1 builds with line tracing, for coverage and profilers. FASTSERVERSTATE_SANITIZE, such as
``address,undefined`` or ``thread``, builds with the compiler's sanitizers. Each variant has its own build directory.
"""

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup

trace = os.environ.get("FASTSERVERSTATE_TRACE") == "1"
sanitize = os.environ.get("FASTSERVERSTATE_SANITIZE", "")

build = os.path.join("build", "trace" if trace else sanitize.replace(",", "-"))
flags = [f"-fsanitize={sanitize}"] if sanitize else []
# The Pythons of some distributions compile extensions with less than -O3. The only symbol to export is PyInit__core.
# The core is one compilation unit, so GCC's limits for inlining are raised: else rarely called functions use them up.
inlining = ["--param=inline-unit-growth=100", "--param=large-function-growth=300"]
release = ["-O3", "-fvisibility=hidden", *inlining] if os.name == "posix" else []
if "undefined" in sanitize:
    flags.append("-fno-sanitize-recover=undefined")  # else it prints its findings and continues

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastserverstate._core",
                ["src/fastserverstate/_core.pyx"],
                depends=glob.glob("src/fastserverstate/*.h"),
                include_dirs=["src/fastserverstate"],
                define_macros=[("CYTHON_TRACE_NOGIL", "1")] if trace else [],
                extra_compile_args=[*flags, "-O1", "-g", "-fno-omit-frame-pointer"] if sanitize else release,
                extra_link_args=flags,
            )
        ],
        include_path=["src"],
        build_dir=os.path.join(build, "cython"),
        compiler_directives={"linetrace": trace},
    ),
    options={"build": {"build_base": build}},
)
