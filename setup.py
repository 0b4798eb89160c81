"""Builds the compiled core. Everything else about the package is in pyproject.toml.

FASTSERVERSTATE_TRACE=1 builds with line tracing, for coverage and profilers. FASTSERVERSTATE_SANITIZE, such as
``address,undefined`` or ``thread``, builds with the compiler's sanitizers. Each flavour has a build tree of its own.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

trace = os.environ.get("FASTSERVERSTATE_TRACE") == "1"
sanitize = os.environ.get("FASTSERVERSTATE_SANITIZE", "")

build = os.path.join("build", "trace" if trace else sanitize.replace(",", "-"))
flags = [f"-fsanitize={sanitize}"] if sanitize else []
# Some distributions' Pythons compile extensions with less than -O3. Nobody needs to see more than the module's init.
# The core is one file: what is seldom called would use up what GCC allows for inlining what is called all the time.
inlining = ["--param=inline-unit-growth=100", "--param=large-function-growth=300"]
release = ["-O3", "-fvisibility=hidden", *inlining] if os.name == "posix" else []
if "undefined" in sanitize:
    flags.append("-fno-sanitize-recover=undefined")  # it would print what it found, and go on

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastserverstate._core",
                ["src/fastserverstate/_core.pyx"],
                depends=["src/fastserverstate/_platform.h"],
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
