"""Run the load benchmark, from the root of the repository:

    PYTHONPATH=src:tests:bench python -m load --scenario counter --out results

Needs Streamlit, both packages, websockets, matplotlib and tqdm. Linux only: CPU time is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from load.bench import PACKAGES, VARIANTS, serving
from load.plot import draw
from load.report import Result, as_json, as_text
from load.scenarios import SCENARIOS

# Scenarios have their own timeouts. This one is for a server that does not answer at all.
LIMIT_SECONDS = 240


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load", description="Many sessions on a real Streamlit server.")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="may be repeated; default: all")
    parser.add_argument("--package", action="append", choices=PACKAGES, help="may be repeated; default: all")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: what fits the scenario")
    parser.add_argument("--sessions", type=int, help="instead of the scenario's own number")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="keep N processors busy with something else")
    parser.add_argument("--quick", action="store_true", help="small and short: shows that it works, not how fast it is")
    parser.add_argument(
        "--out", type=Path, default=Path("load-results"), help="folder for results.json and results.png"
    )
    return parser.parse_args()


async def run(
    scenario: str, variant: str, package: str, arguments: argparse.Namespace, bar: tqdm[None]
) -> Result | None:
    """Run a scenario on a server of its own. Return None without a result."""

    def say(step: str) -> None:
        bar.set_description_str(f"{scenario}, {variant}, {PACKAGES[package].name}: {step}")

    plan = SCENARIOS[scenario]
    size = plan.quick if arguments.quick else plan.size
    if arguments.sessions is not None and size.sessions > 1:
        size = dataclasses.replace(size, sessions=arguments.sessions)
    say("starting")
    try:
        async with asyncio.timeout(LIMIT_SECONDS), serving(plan.app, PACKAGES[package], VARIANTS[variant]) as bench:
            own_cpu = time.process_time()
            figures = await plan.measure(bench, size, say)
            figures["client_cpu_seconds"] = time.process_time() - own_cpu
            figures["exceptions_in_log"] = bench.errors()
    except (TimeoutError, ConnectionError) as error:
        bar.write(f"{scenario}, {variant}, {PACKAGES[package].name}: no result, {error!r}")
        return None
    finally:
        bar.update()
    return Result(scenario, variant, package, size.sessions, figures)


@contextlib.contextmanager
def spinning(processes: int) -> Iterator[None]:
    """Keep this many processors busy during the ``with`` block."""
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def environment(busy: int) -> dict[str, str]:
    """Return what the figures depend on. The load before the start reveals other work on the machine."""
    return {
        "fastserverstate": version("fastserverstate"),
        "streamlit-server-state": version("streamlit-server-state"),
        "Streamlit": version("streamlit"),
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "kept busy": str(busy),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
    }


async def main() -> None:
    arguments = parse_arguments()
    setting = environment(arguments.busy)
    cells = [
        (scenario, variant, package)
        for scenario in arguments.scenario or SCENARIOS
        for variant in arguments.variant or SCENARIOS[scenario].variants
        for package in arguments.package or PACKAGES
    ]
    with tqdm(total=len(cells), unit="server") as bar, spinning(arguments.busy):
        found = [await run(*cell, arguments, bar) for cell in cells]
    results = [result for result in found if result is not None]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(as_json(results, setting))
    if results:
        draw(arguments.out / "results.png", results, setting)
    print(as_text(results))
    print(f"\nWritten to {arguments.out}")


if __name__ == "__main__":
    asyncio.run(main())
