"""What holds for the whole suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that is busy.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real servers and browsers get a second try on a machine that is busy; the summary says when."""
    for item in items:
        if any(item.path.is_relative_to(HERE / folder) for folder in ("browser", "runtime")):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads take turns some hundred times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
