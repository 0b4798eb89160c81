"""Run the benchmarks in a live script run. Print the costs compared with a dict, and whether they meet the targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live import LiveServer

# The least ratio to streamlit-server-state, on every row.
OLDER_AT_LEAST = 25


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
    """Print a Markdown table of nanoseconds per operation (medians), and of ratios with their targets."""
    groups: dict[str, dict[str, Any]] = {}
    for bench in config._benchmarksession.benchmarks:  # type: ignore[attr-defined]
        if not bench.has_error and "operations" in bench.extra_info:
            name = (bench.params or {}).get("name", "fastserverstate")
            groups.setdefault(bench.group, {})[name] = bench
    if not groups:
        return
    terminalreporter.section("cost per operation")
    terminalreporter.write_line(
        "| operation | dict | fastserverstate | vs. dict | target | streamlit-server-state | vs. ours | target |"
    )
    terminalreporter.write_line("|---|--:|--:|--:|---|--:|--:|---|")
    for group in groups:
        terminalreporter.write_line(f"| {group} | {' | '.join(_row(groups, group))} |")


def _row(groups: dict[str, dict[str, Any]], group: str) -> Iterator[str]:
    ours, plain = groups[group].get("fastserverstate"), groups[group].get("dict")
    if ours is None:
        return
    info = ours.extra_info
    plain_cost = _cost(plain) if plain is not None else info.get("plain")
    ratio = info.get("ratio") or (plain_cost and _cost(ours) / plain_cost)
    yield f"{plain_cost:,.1f} ns" if plain_cost else ""
    yield f"{_cost(ours):,.1f} ns"
    yield f"{ratio:.2f}x" if ratio else ""
    if "at_most" in info:
        yield _judged(f"at most {info['at_most']:g}x", ratio <= info["at_most"])
    elif "at_most_ns" in info:
        yield _judged(f"at most {info['at_most_ns']:g} ns", _cost(ours) <= info["at_most_ns"])
    else:
        yield ""
    older = groups.get(info.get("older_group", group), {}).get("streamlit-server-state")
    if older is not None:
        # The fastest rounds: reruns that its writes start slow down other rounds, up to a thousandfold.
        cost = _fastest(older)
        times = cost / _fastest(ours)
        yield f"{cost:,.0f} ns"
        yield f"{times:,.0f}x"
        yield _judged(f"at least {OLDER_AT_LEAST}x", times >= OLDER_AT_LEAST)


def _cost(bench: Any) -> float:
    """Return the nanoseconds per operation."""
    cost: float = bench.stats.median / bench.extra_info["operations"] * 1e9
    return cost


def _fastest(bench: Any) -> float:
    """Return the nanoseconds per operation in the fastest round."""
    cost: float = bench.stats.min / bench.extra_info["operations"] * 1e9
    return cost


def _judged(target: str, met: bool) -> str:
    return f"{target}: {'met' if met else 'MISSED'}"
