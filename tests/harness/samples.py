"""The samples of code in the README and in docs/, and a program that runs those of one document."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# What a sample that imports nothing may use.
_PRELUDE = "import streamlit as st\nfrom fastserverstate import *\nserver_state.setdefault('n', 0)\n"


class Sample(NamedTuple):
    """A fenced block: its language, its text, and the number of its first line in the document."""

    language: str
    text: str
    line: int

    @property
    def is_service(self) -> bool:
        """Whether it is no script but makes the server. tests/runtime/test_guides.py runs those."""
        return "st.App(" in self.text


def samples(document: Path) -> list[Sample]:
    text = document.read_text(encoding="utf-8")
    return [
        Sample(found["language"], found["text"], text.count("\n", 0, found.start()) + 2)
        for found in _FENCE.finditer(text)
    ]


def app(document: str, number: int = 0) -> str:
    """The source of one of a document's apps."""
    scripts = [sample.text for sample in samples(ROOT / document) if sample.language == "python"]
    return scripts[number]


def _run(document: Path) -> list[str]:
    """Run a document's samples, in their order and in one process. Returns what went wrong."""
    from streamlit.testing.v1 import AppTest  # noqa: PLC0415 - the tests import this module too

    wrong = []
    names: dict[str, object] = {}
    for language, text, line in (sample for sample in samples(document) if not sample.is_service):
        place = f"{document.name}:{line}"
        if language == "pycon":
            test = doctest.DocTestParser().get_doctest(text, names, place, str(document), line)
            doctest.DocTestRunner(verbose=False).run(test, out=wrong.append, clear_globs=False)
            names = test.globs
        elif language == "python":
            script = text if "import " in text else _PRELUDE + text
            compile(script, place, "exec")
            app = AppTest.from_string(script).run(timeout=60)
            wrong += [f"{place}: {error.message}\n{''.join(error.stack_trace)}" for error in app.exception]
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(_run(Path(sys.argv[1]).resolve())) or None)
