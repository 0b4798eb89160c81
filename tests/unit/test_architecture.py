"""docs/architecture.md is correct: its files, functions and calls exist, and imports go one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import streamlit

import fastserverstate

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fastserverstate"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

STEP = re.compile(r"^(?P<branch>[│├└─┄ ]*)(?P<name>[A-Za-z_][\w.]*) +(?P<file>[\w/]+\.(?:pyx|pxi|pxd|py))(?:  |$)")
LAYER = re.compile(r"^### Layer (?P<number>\d+): (?P<title>.*?)\n(?P<text>.*?)(?=^#)", re.MULTILINE | re.DOTALL)
FILES = re.compile(r"^\| ((?:`[\w./]+`(?:, )?)+) \|", re.MULTILINE)


class Step(NamedTuple):
    """A line of a drawing and its parent line, which calls it or passes it on."""

    name: str
    file: str
    caller: Step | None = None
    is_call: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.file})"


def drawings() -> Iterator[list[str]]:
    for section in PAGE.split("\n## ")[1:]:
        if section.startswith("The path of one"):
            yield from (
                text.splitlines() for text in re.findall(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
            )


def steps() -> Iterator[Step]:
    for lines in drawings():
        callers: list[Step] = []
        for line in lines:
            found = STEP.match(line)
            assert found, f"Not a step of a drawing: {line}"
            depth, rest = divmod(len(found["branch"]), 3)
            assert rest == 0, f"Not in a column: {line}"
            caller = callers[depth - 1] if depth else None
            step = Step(found["name"], found["file"], caller, found["branch"].endswith("─ "))
            callers[depth:] = [step]
            yield step


STEPS = list(steps())


def read(file: str) -> str:
    package, _, rest = file.partition("/")
    path = Path(streamlit.__file__).parent / rest if package == "streamlit" else SOURCE / file
    return path.read_text(encoding="utf-8")


def block(text: str, definition: str) -> str | None:
    """Return the first definition that matches, with its indented lines."""
    found = re.search(rf"^(?P<indent> *){definition}", text, re.MULTILINE)
    if found is None:
        return None
    lines = text[found.start() :].splitlines()
    indent = len(found["indent"])
    length = 1
    while length < len(lines):
        line = lines[length]
        if line.strip() and len(line) - len(line.lstrip()) <= indent and not line.lstrip().startswith(")"):
            break
        length += 1
    return "\n".join(lines[:length])


def definition_of(step: Step) -> str | None:
    """Return the source of a function, or of a method as Class.method, in Python or Cython."""
    text: str | None = read(step.file)
    *classes, function = step.name.split(".")
    for name in classes:
        text = text and block(text, rf"(?:cdef )?class {name}\b")
    return text and block(text, rf"(?:async def|def|cdef|cpdef)\b[^=(\n]*\b{function}\(")


@pytest.mark.parametrize("step", dict.fromkeys(STEPS), ids=str)
def test_a_step_exists_and_is_called(step: Step) -> None:
    assert definition_of(step), f"{step} is not defined there"
    if step.is_call:
        called = step.name.rpartition(".")[2]
        body = (definition_of(step.caller) or "").partition("\n")[2]
        assert re.search(rf"\b{called}\b", body), f"{step.caller} does not call {called}"


def test_the_drawings_lead_from_the_app_to_the_browser_and_back() -> None:
    names = {step.name for step in STEPS}
    assert {
        "Namespace.__setitem__",
        "Namespace.__getitem__",
        "AppSession.request_rerun",
        "ForwardMsgQueue.enqueue",
    } <= names
    assert len(names) > 50


LAYERS = {
    layer["title"]: [file.strip("`") for files in FILES.findall(layer["text"]) for file in files.split(", ")]
    for layer in LAYER.finditer(PAGE)
}
LAYER_OF = {file: number for number, files in enumerate(LAYERS.values()) for file in files}
ADAPTER = LAYERS["the Streamlit adapter"]


def listed_as(path: Path) -> str:
    """Return how the page lists a file of the package: by name, or by its folder."""
    folder, separator, _ = path.relative_to(SOURCE).as_posix().partition("/")
    return folder + separator


def test_layers_are_numbered_from_below() -> None:
    assert [int(layer["number"]) for layer in LAYER.finditer(PAGE)] == list(range(len(LAYERS)))


def test_every_file_is_in_one_layer() -> None:
    suffixes = {".py", ".pyi", ".pyx", ".pxi", ".pxd", ".h"}
    files = {listed_as(path) for path in SOURCE.rglob("*") if path.suffix in suffixes}
    assert sorted(files) == sorted(file for files in LAYERS.values() for file in files)


class Imports(ast.NodeVisitor):
    """Return the imports that run with the module: neither those for type checkers, nor those in functions."""

    def __init__(self) -> None:
        self.modules: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Skip the function, whose body runs later."""

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.modules += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module, "Imports are absolute"
        if node.module == fastserverstate.__name__:
            self.modules += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            self.modules.append(node.module)


def test_imports_go_one_way() -> None:
    for path in SOURCE.rglob("*.py"):
        imports = Imports()
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        for module in imports.modules:
            package, _, rest = module.partition(".")
            if package == "streamlit":
                assert listed_as(path) in ADAPTER, f"{path.name} imports Streamlit"
            elif package == fastserverstate.__name__:
                name = rest.partition(".")[0]
                lower = next(LAYER_OF[file] for file in (f"{name}.py", f"{name}.pyx", f"{name}/") if file in LAYER_OF)
                assert lower <= LAYER_OF[listed_as(path)], f"{path.name} imports {module} from a higher layer"
