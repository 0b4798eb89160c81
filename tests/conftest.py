"""Settings of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.interpreter import switch_interval
from hypothesis import settings

# On a busy machine, the duration of an example says nothing.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests with real servers and browsers a second try. Nightly runs do without, with `--force-reruns=0`."""
    for item in items:
        if any(item.path.is_relative_to(HERE / folder) for folder in ("browser", "runtime")):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report how many tests needed their second try, and which."""
    reports = [report for name in ("passed", "failed", "error") for report in terminalreporter.getreports(name)]
    tried_again = sorted({report.nodeid for report in terminalreporter.getreports("rerun")})
    # The report of a module that could not be imported has no keywords.
    eligible = {report.nodeid for report in reports if "flaky" in getattr(report, "keywords", ())}
    if eligible:
        terminalreporter.section("second tries")
        terminalreporter.write_line(f"{len(tried_again)} of {len(eligible)} tests needed a second try.")
        for test in tried_again:
            terminalreporter.write_line(f"    {test}")


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Have threads switch some hundred times as often as usual."""
    with switch_interval(1e-5):
        yield
