"""The methods that `make test-delays` delays exist."""

from __future__ import annotations

import sys
from pathlib import Path
from runpy import run_path

import pytest


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))  # the module adds a finder
    return run_path(str(Path(__file__).parents[1] / "delays" / "sitecustomize.py"))["POINTS"]


def test_delayed_methods_exist(points: dict[str, dict[str, float]]) -> None:
    for name, methods in points.items():
        module = pytest.importorskip(name)
        for method in methods:
            owner, function = method.split(".")
            assert callable(getattr(getattr(module, owner), function)), (name, method)
