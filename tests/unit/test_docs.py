"""The examples in docstrings and documents run, and names in the documents exist."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import fastserverstate
from fastserverstate import _core, server_state

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def run_examples(text: str, names: dict[str, object], title: str) -> int:
    """Run the examples and return how many there were."""
    test = doctest.DocTestParser().get_doctest(text, dict(names), title, None, 0)
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)
    return results.attempted


@pytest.mark.parametrize("name", fastserverstate.__all__)
def test_public_names_have_docstrings(name: str) -> None:
    documented = getattr(fastserverstate, name)
    assert run_examples(documented.__doc__, {}, name)
    if not isinstance(documented, type):
        assert "Thread-safety" in documented.__doc__


def test_examples_of_methods() -> None:
    methods = [
        method
        for name in fastserverstate.__all__
        for _, method in inspect.getmembers(type(getattr(fastserverstate, name)), inspect.isfunction)
        if ">>>" in (method.__doc__ or "") and method.__module__.startswith("fastserverstate")
    ]
    assert fastserverstate.server_state.to_dict.__func__ in methods
    for method in methods:
        assert run_examples(method.__doc__, {}, method.__qualname__)


def test_examples_of_the_package() -> None:
    assert run_examples(fastserverstate.__doc__, {}, "fastserverstate")


def test_examples_of_the_core() -> None:
    text = Path(_core.__file__).with_name("_core.pyi").read_text().replace('"""', "\n")
    assert run_examples(text, vars(_core), "_core.pyi")


def test_the_readme_s_app_runs() -> None:
    source = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    try:
        app = AppTest.from_string(source[1]).run(timeout=30)
        app.button[0].click().run(timeout=30)
        assert (app.metric[0].value, list(app.exception)) == ("1", [])
    finally:
        server_state.clear()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_commands_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", " ".join(re.findall(r"`make [^`]*`|^make .*$", text, re.MULTILINE))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"pytest ((?:tests|bench)[\w/.]*)", text):
        assert (ROOT / path).exists(), path
