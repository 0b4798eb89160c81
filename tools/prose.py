"""Checks the words of the documents, docstrings and comments against the rules in CONTRIBUTING.md.

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
_RULES = {re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE): advice for pattern, advice in RULES.items()}
_CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL)


def files() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for pattern in ("*.py", "*.pyi", "*.pyx", "*.pxi", "*.pxd", "*.lua"):
        yield from (ROOT / "src").rglob(pattern)


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
    for first, text in prose_of(path):
        for rule, advice in _RULES.items():
            for found in rule.finditer(text):
                line = first + text.count("\n", 0, found.start())
                yield f'{path.relative_to(ROOT)}:{line}: "{found[0]}": write {advice}'


def main() -> None:
    paths = [Path(name).resolve() for name in sys.argv[1:]] or sorted(set(files()))
    found = [violation for path in paths for violation in violations(path)]
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
