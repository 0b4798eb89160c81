"""The documents' samples type-check: an app that begins with one of them does too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.samples import DOCUMENTS, samples

PRELUDE = "import streamlit as st\nfrom fastserverstate import *\n"


def test_mypy_accepts_every_sample(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="the environments of older Streamlit releases have no linters")
    for document in DOCUMENTS:
        for sample in samples(document):
            if sample.language == "python":
                text = sample.text if "import " in sample.text else PRELUDE + sample.text
                (tmp_path / f"{document.stem.replace('-', '_')}_{sample.line}.py").write_text(text)
    # Without the project's own configuration, as for a user. pandas has its types in a package of its own.
    command = ["--strict", "--ignore-missing-imports", "--config-file=", "--no-error-summary", str(tmp_path)]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(path for path in sys.path if path.endswith("src"))}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *command], check=False, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
