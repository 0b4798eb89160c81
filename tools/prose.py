"""Check the words of documents, docstrings, comments and test names against the rules in CONTRIBUTING.md.

python tools/prose.py [FILE ...]     all files of the project if none is named
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A word or phrase, and what to write instead.
RULES = {
    r"somebody|nobody|everybody|anybody|whoever|whomever|someone": "users, sessions or threads",
    r"beside": "compared with, or next to",
    r"told apart|has the whole of it|what is honest": "a plain statement",
    r"stands? still|goes? along with|has the next turn": "a plain verb",
    r"in (?:two|other|all|every|each|which|how many) tabs?": "sessions, or browser tabs",
    r"as many .{1,40} as may": "a plain statement",
}
# Of tests, benchmarks and examples only.
EXTRA_RULES = {
    r"at once": "immediately, atomically, or at the same time",
    r"stands(?! for)": "remains, or a plain verb",
}
EXTRA_FOLDERS = ("tests", "bench", "examples")
_CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL)


def files() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for pattern in ("*.py", "*.pyi", "*.pyx", "*.pxi", "*.pxd", "*.lua"):
        yield from (ROOT / "src").rglob(pattern)
    for folder in EXTRA_FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file with the numbers of their first lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, _without_code(text)
    elif path.suffix in {".py", ".pyi"}:
        for node in ast.walk(ast.parse(text)):
            value = node.value if isinstance(node, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, _without_code(value.value)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.lineno, node.name.replace("_", " ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    else:
        marker = "--" if path.suffix == ".lua" else "#"
        for number, line in enumerate(text.splitlines(), 1):
            if marker in line:
                yield number, line.partition(marker)[2]


def _without_code(text: str) -> str:
    return _CODE.sub(lambda code: "\n" * code[0].count("\n"), text)


def violations(path: Path) -> Iterator[str]:
    is_extra = path.relative_to(ROOT).parts[0] in EXTRA_FOLDERS
    rules = {**RULES, **(EXTRA_RULES if is_extra else {})}
    for first, text in prose_of(path):
        for pattern, advice in rules.items():
            for found in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
                line = first + text.count("\n", 0, found.start())
                yield f'{path.relative_to(ROOT)}:{line}: "{found[0]}": write {advice}'


def main() -> None:
    paths = [Path(name).resolve() for name in sys.argv[1:]] or sorted(set(files()))
    found = [violation for path in paths for violation in violations(path)]
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
