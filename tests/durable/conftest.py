"""Fixtures for the tests of state files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastserverstate.durable.state_file import StateFile

Open = Callable[..., StateFile]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def opened() -> Iterator[Open]:
    """`opened(path)` opens a state file. All are closed at the end of the test; closing one earlier is fine."""
    files: list[StateFile] = []

    def open_file(path: Path, *, sync: bool = False) -> StateFile:
        files.append(StateFile.open(path, sync=sync))
        return files[-1]

    yield open_file
    for file in files:
        file.close()
