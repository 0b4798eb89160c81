"""A plugin of coverage.py for the core: `make coverage`.

Cython's own plugin runs Python code at each line. There, threads could switch in the middle of operations of the core,
which are atomic because they keep the GIL. This plugin runs Python code only once per file.
"""

from __future__ import annotations

import os
from operator import attrgetter
from typing import Any

from coverage.plugin import FileTracer
from Cython.Coverage import Plugin


class StaticFileTracer(FileTracer):
    line_number_range = attrgetter("f_lineno", "f_lineno")  # not a Python function

    def __init__(self, path: str) -> None:
        self._path = path

    def source_filename(self) -> str:
        return self._path


class CorePlugin(Plugin):
    def file_tracer(self, filename: str) -> FileTracer | None:
        return StaticFileTracer(os.path.abspath(filename)) if super().file_tracer(filename) else None


def coverage_init(registry: Any, _options: dict[str, str]) -> None:
    plugin = CorePlugin()
    registry.add_configurer(plugin)
    registry.add_file_tracer(plugin)
