"""Messages that the documents quote are messages of the package, so that users who search for one find it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.samples import ROOT

SOURCE = ROOT / "src" / "fastserverstate"
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# "... text of a message ..." or, as a heading or in italics, SomeError: text of a message.
QUOTE = re.compile(
    r'(?<!\w)"(?P<text>(?:\.\.\. |[A-Z])[^"`]{20,}?)"|^(?:## |\*)[A-Z]\w+Error: (?P<error>[^*\n]+)', re.MULTILINE
)
# Adjacent literals are one text.
LITERAL = re.compile(r'f?"(?:[^"\\\n]|\\.)*"(?:\s+f?"(?:[^"\\\n]|\\.)*")*')
# A value in a message: in its template, or in a quote.
FIELD = re.compile(r"%[sr]|\{[^{}]*\}|'\w+'")


def without_values(text: str) -> str:
    return FIELD.sub("<value>", " ".join(text.split()))


def messages() -> set[str]:
    """The templates of all texts in the package."""
    found = set()
    for path in SOURCE.rglob("*.p*"):
        if path.suffix in {".py", ".pyx", ".pxi", ".pxd"}:
            for literal in LITERAL.findall(path.read_text(encoding="utf-8")):
                found.add(without_values("".join(re.findall(r'f?"((?:[^"\\\n]|\\.)*)"', literal))))
    return found


MESSAGES = messages()


def quotes(document: Path) -> list[str]:
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    found = [(match["text"] or match["error"]) for match in QUOTE.finditer(prose)]
    return [without_values(text.strip(".").strip()) for text in found]


@pytest.mark.parametrize(
    ("document", "quote"),
    [(document.name, quote) for document in DOCUMENTS for quote in quotes(document)],
)
def test_quoted_messages_exist(document: str, quote: str) -> None:
    assert any(quote in message for message in MESSAGES), f"{document} quotes a message that is not there: {quote}"


def test_quotes_are_found() -> None:
    assert len(quotes(ROOT / "docs" / "troubleshooting.md")) > 7
