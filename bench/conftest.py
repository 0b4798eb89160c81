"""Runs the benchmarks inside of a live script run and prints what they cost beside a dict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live import LiveServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path_factory.mktemp("app"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def script_run(server: LiveServer) -> Iterator[None]:
    with server.script_run():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A Markdown table: nanoseconds per operation, median of the rounds, and ratios."""
    groups: dict[str, dict[str, float]] = {}
    for bench in config._benchmarksession.benchmarks:  # type: ignore[attr-defined]
        groups.setdefault(bench.group, {})[bench.params["name"]] = (
            bench.stats.median / bench.extra_info["operations"] * 1e9
        )
    if not groups:
        return
    terminalreporter.section("cost per operation")
    terminalreporter.write_line(
        "| operation | dict | fastserverstate | beside dict | streamlit-server-state | beside ours |"
    )
    terminalreporter.write_line("|---|--:|--:|--:|--:|--:|")
    for group, costs in groups.items():
        base, ours, old = (costs.get(name) for name in ("dict", "fastserverstate", "streamlit-server-state"))
        if base is None or ours is None or old is None:
            continue
        terminalreporter.write_line(
            f"| {group} | {base:,.0f} ns | {ours:,.0f} ns | {ours / base:.1f}x | {old:,.0f} ns | {old / ours:,.0f}x |"
        )
