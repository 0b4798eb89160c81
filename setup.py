"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

# FASTSERVERSTATE_TRACE=1 builds with line tracing, for coverage and profilers.
trace = os.environ.get("FASTSERVERSTATE_TRACE") == "1"

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastserverstate._core",
                ["src/fastserverstate/_core.pyx"],
                define_macros=[("CYTHON_TRACE_NOGIL", "1")] if trace else [],
            )
        ],
        include_path=["src"],
        build_dir="build/cython",
        compiler_directives={"linetrace": trace},
    )
)
