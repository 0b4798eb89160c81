"""The number of repetitions of failure tests, and a table of their results.

As a pytest plugin (`-p harness.faults`, in `make test-faults`) it prints the table at the end. The rows are tests with
the number of their group in the list of failures: `@pytest.mark.failure(3)`.
"""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("FASTSERVERSTATE_FAULTS") == "long"


def times(short: int, long: int) -> int:
    return long if LONG else short


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("failure"):
            item.user_properties.append(("group", marker.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "group" in properties:
                name = report.nodeid.rpartition("::")[2].removeprefix("test_")
                rows.append((properties["group"], name, outcome, properties.get("result", "")))
    terminalreporter.section("injected failures")
    width = max((len(name) for _, name, _, _ in rows), default=0)
    for group, name, outcome, result in sorted(rows):
        terminalreporter.write_line(f"{group:2}  {name:{width}}  {outcome:6}  {result}".rstrip())
