"""Every test has a store of its own and its scopes from `stress.helpers.enter`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from stress.helpers import DEADLINE, SECONDS, World, leave, locate_in_stress, many_switches


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stress" in item.path.parts:
            item.add_marker(pytest.mark.timeout(3 * (SECONDS + DEADLINE)))


@pytest.fixture(autouse=True)
def _scopes() -> Iterator[None]:
    locate_in_stress()
    with many_switches():
        yield
    leave()
    if find_spec("streamlit") is not None:
        from unit.helpers import locate_in_streamlit  # noqa: PLC0415  (needs Streamlit)

        locate_in_streamlit()


@pytest.fixture
def world() -> World:
    return World()
