"""The code samples of the README and docs/. As a program: runs the samples of one document."""

from __future__ import annotations

import contextlib
import doctest
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# Prepended to samples without imports.
_PRELUDE = "import streamlit as st\nfrom fastserverstate import *\nserver_state.setdefault('n', 0)\n"


class Sample(NamedTuple):
    """A fenced block: its language, its text, and the line number of its first line."""

    language: str
    text: str
    line: int

    @property
    def is_service(self) -> bool:
        """Return whether it creates a server instead of being a script. tests/runtime/test_guides.py runs these."""
        return "st.App(" in self.text


def samples(document: Path) -> list[Sample]:
    text = document.read_text(encoding="utf-8")
    return [
        Sample(found["language"], found["text"], text.count("\n", 0, found.start()) + 2)
        for found in _FENCE.finditer(text)
    ]


def app(document: str, number: int = 0) -> str:
    """Return the source of an app in a document."""
    scripts = [sample.text for sample in samples(ROOT / document) if sample.language == "python"]
    return scripts[number]


def _run(document: Path) -> list[str]:
    """Run the samples of a document in sequence, in one process. Returns the errors."""
    from streamlit.testing.v1 import AppTest  # noqa: PLC0415 - tests import this module too

    errors = []
    names: dict[str, object] = {}
    for language, text, line in (sample for sample in samples(document) if not sample.is_service):
        place = f"{document.name}:{line}"
        if language == "pycon":
            test = doctest.DocTestParser().get_doctest(text, names, place, str(document), line)
            doctest.DocTestRunner(verbose=False).run(test, out=errors.append, clear_globs=False)
            names = test.globs
        elif language == "python":
            script = text if "import " in text else _PRELUDE + text
            compile(script, place, "exec")
            app = AppTest.from_string(script).run(timeout=60)
            errors += [f"{place}: {error.message}\n{''.join(error.stack_trace)}" for error in app.exception]
    return errors


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # samples may create files
        sys.exit("\n".join(_run(path)) or None)
