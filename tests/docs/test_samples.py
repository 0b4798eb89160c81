"""Every sample of code in the documents runs, and every command is one that some test runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import samples
from harness.samples import DOCUMENTS, ROOT

# Where the commands of the documents are run, apart from those of make.
COMMANDS = {
    "pip install .": "Makefile",
    'pip install ".[redis]"': "Makefile",
    "streamlit run app.py": "tests/harness/server.py",
    "FASTSERVERSTATE_URL=redis://localhost:6379 streamlit run app.py": "tests/browser/test_cluster.py",
    "uvicorn service:app": "tests/runtime/test_guides.py",
    "python -m fastserverstate export state.db -o backup.jsonl": "tests/durable/test_cli.py",
    "python -m fastserverstate import new.db backup.jsonl": "tests/durable/test_cli.py",
    'export FASTSERVERSTATE_SECRET="at least sixteen bytes, from your secret store"': "tests/durable/test_cli.py",
    "python -m fastserverstate move state.db redis://localhost:6379 --namespace shop": "tests/durable/test_cli.py",
    'curl --json \'{"text": "Deployed"}\' http://localhost:8000/hooks/events': "tests/runtime/test_guides.py",
}
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
# The others are not run: drawings, what something prints, and directives of the site.
LANGUAGES = {"python", "pycon", "sh", "json", "", "text", "{include} ../CHANGELOG.md", "{toctree}", "{glossary}"}


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


WITH_CODE = [
    document
    for document in DOCUMENTS
    if any(sample.language in {"python", "pycon"} for sample in samples.samples(document))
]


@pytest.mark.parametrize("document", WITH_CODE, ids=name)
def test_samples_run(document: Path) -> None:
    result = subprocess.run(
        [sys.executable, samples.__file__, str(document)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_samples_are_of_a_known_kind(document: Path) -> None:
    assert {sample.language for sample in samples.samples(document)} <= LANGUAGES


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_are_known(document: Path) -> None:
    blocks = [sample.text for sample in samples.samples(document) if sample.language == "sh"]
    commands = [command for block in blocks for command in block.splitlines()]
    commands += re.findall(r"`(make [a-z-]+)[^`]*`", document.read_text(encoding="utf-8"))
    for command in commands:
        assert command in COMMANDS or command.removeprefix("make ") in TARGETS, command


def test_files_with_commands_exist() -> None:
    assert [path for path in COMMANDS.values() if not (ROOT / path).is_file()] == []
