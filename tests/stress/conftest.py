"""Each test has a store of its own. `enter` chooses the scope of a thread."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from harness.interpreter import switch_interval
from harness.scopes import leave, locate_in_tests
from stress.helpers import DEADLINE, SECONDS, World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stress" in item.path.parts:
            item.add_marker(pytest.mark.timeout(3 * (SECONDS + DEADLINE)))


@pytest.fixture(autouse=True)
def _scopes() -> Iterator[None]:
    locate_in_tests()
    with switch_interval(1e-6):
        yield
    leave()
    if find_spec("streamlit") is not None:
        from unit.helpers import locate_in_streamlit  # noqa: PLC0415  (needs Streamlit)

        locate_in_streamlit()


@pytest.fixture
def world() -> World:
    return World()
