"""Editors and help() describe every public name, and offer no private one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.language_server import LanguageServer, language_server

import fastserverstate
from fastserverstate import cluster, durable

PUBLIC = {
    **{f"fastserverstate.{name}": getattr(fastserverstate, name) for name in fastserverstate.__all__},
    **{f"fastserverstate.cluster.{name}": getattr(cluster, name) for name in cluster.__all__},
    **{f"fastserverstate.durable.{name}": getattr(durable, name) for name in durable.__all__},
}
SUBMODULES = {path.stem for path in Path(fastserverstate.__file__).parent.rglob("*") if path.suffix in {"", ".py"}}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isroutine(value)}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    with language_server(tmp_path_factory.mktemp("app")) as server:
        yield server


def imported(name: str) -> str:
    module, _, last = name.rpartition(".")
    return f"from {module} import {last}\n{last}"


def is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def words(markdown: str) -> str:
    return re.sub(r"[^\w]+", " ", markdown.replace("&nbsp;", " "))


@pytest.mark.parametrize("name", PUBLIC)
def test_hover_shows_a_description(editor: LanguageServer, name: str) -> None:
    _, _, description = editor.hover(imported(name)).partition("---")
    assert len(words(description).split()) >= 5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hover_shows_parameters_and_the_docstring(editor: LanguageServer, name: str) -> None:
    shown = words(editor.hover(imported(name)))
    function = FUNCTIONS[name]
    for parameter in inspect.signature(function).parameters.values():
        is_forwarded = str(parameter.annotation).startswith("P.")  # the editor shows **P for both
        assert f" {'P' if is_forwarded else parameter.name} " in shown
    first = (inspect.getdoc(function) or "").splitlines()[0]
    assert words(first).strip() in shown


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_public_names(name: str) -> None:
    function = FUNCTIONS[name]
    assert f"{function.__module__}.{function.__qualname__}" in {name, f"fastserverstate._connect.{function.__name__}"}
    annotations = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    assert inspect.Parameter.empty not in annotations


@pytest.mark.parametrize(
    ("module", "public"),
    [
        ("fastserverstate", fastserverstate.__all__),
        ("fastserverstate.cluster", cluster.__all__),
        ("fastserverstate.durable", durable.__all__),
    ],
)
def test_modules_complete_with_their_public_names(editor: LanguageServer, module: str, public: list[str]) -> None:
    offered = editor.completions(f"import {module}\n{module}.")
    assert set(public) <= offered
    assert {name for name in offered if not is_special(name)} - SUBMODULES <= set(public)


@pytest.mark.parametrize("name", ["atomic", "no_rerun", "server_state", "server_state_lock", "transaction"])
def test_objects_complete_without_private_names(editor: LanguageServer, name: str) -> None:
    offered = editor.completions(f"{imported(f'fastserverstate.{name}')}.")
    assert "__doc__" in offered
    assert {name for name in offered if name.startswith("_") and not is_special(name)} == set()
