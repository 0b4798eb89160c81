"""The results as one picture: a panel for each scenario, a bar of each package for each figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from load.bench import PACKAGES, VARIANTS
from load.report import Result
from load.scenarios import SCENARIOS

COLORS = {"old": "#b4b9c4", "new": "#ff4b4b", "live": "#1c83e1"}
INK = "#31333f"
FAINT = "#808495"
ALARM = "#a3061e"
COLUMNS = 3
MANY_BARS = 12  # their numbers are small, so that they do not overlap
BAR = 0.8 / len(PACKAGES)


@dataclass(frozen=True)
class Panel:
    """The figures of a scenario in a plot: label -> name, multiplied by `factor` for the unit."""

    unit: str
    figures: dict[str, str]
    factor: float = 1
    log: bool = False


PANELS = {
    "counter": Panel("milliseconds", {"median": "median", "all": "all"}, factor=1000, log=True),
    "storm": Panel("seconds", {"median session": "median", "p95": "p95", "all": "all"}),
    "slow-reader": Panel(
        "per second",
        {"runs alone": "alone_per_second", "runs, writes": "completed_per_second", "updates": "updates_per_second"},
    ),
    "rooms": Panel("runs", {"outside, per write": "runs_outside_per_write", "all, per write": "runs_per_write"}),
    "click-under-storm": Panel(
        "milliseconds",
        {"idle p50": "idle_median", "idle p95": "idle_p95", "storm p50": "storm_median", "storm p95": "storm_p95"},
        factor=1000,
        log=True,
    ),
    "idle": Panel("% of one CPU", {"CPU": "cpu_share"}, factor=100),
}


def draw(path: Path, results: list[Result], environment: dict[str, str]) -> None:
    scenarios = [name for name in SCENARIOS if any(result.scenario == name for result in results)]
    columns = min(COLUMNS, len(scenarios))
    rows = -(-len(scenarios) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows + 0.9), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for name, axes in zip(scenarios, grid, strict=False):
        _draw_panel(axes, name, [result for result in results if result.scenario == name])
    for axes in grid:
        axes.set_visible(False)
    patches = [Patch(color=COLORS[key], label=package.name) for key, package in PACKAGES.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches), frameon=False, fontsize=12)
    figure.supxlabel(" · ".join(f"{name} {value}" for name, value in environment.items()), fontsize=8, color=FAINT)
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, scenario: str, results: list[Result]) -> None:
    panel = PANELS[scenario]
    variants = list(dict.fromkeys(result.variant for result in results))
    groups = [(variant, label, figure) for variant in variants for label, figure in panel.figures.items()]
    bars = [
        (place, result.package, result.figures[figure])
        for place, (variant, _, figure) in enumerate(groups)
        for result in results
        if result.variant == variant
    ]
    heights = [value * panel.factor for _, _, value in bars if value is not None]
    highest = max(heights, default=0) or 1
    if panel.log:
        axes.set_yscale("log")
        axes.set_ylim(min(heights, default=1) / 3, highest * 3)
    else:
        axes.set_ylim(0, highest * 1.2)
    size = 9 if len(bars) <= MANY_BARS else 6.5
    for place, package, value in bars:
        x = place + (list(PACKAGES).index(package) - (len(PACKAGES) - 1) / 2) * BAR
        if value is None:
            at = (x, axes.get_ylim()[0])
            axes.annotate(
                "did not converge", at, (0, 4), textcoords="offset points", rotation=90, color=ALARM, ha="center"
            )
        else:
            height = value * panel.factor
            axes.bar(x, height, BAR * 0.94, color=COLORS[package])
            text = f"{height:.{3 if height >= 1 else 2}g}" if height < 1000 else f"{height:,.0f}"
            axes.annotate(text, (x, height), (0, 3), textcoords="offset points", ha="center", fontsize=size, color=INK)
    names = [label if len(variants) == 1 else f"{label}\n{VARIANTS[variant].short}" for variant, label, _ in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=9, color=INK)
    margin = 1.2 if len(groups) == 1 else 0.6
    axes.set_xlim(-margin, len(groups) - 1 + margin)
    sessions = results[0].sessions
    subtitle = f"{sessions} session{'s' if sessions > 1 else ''}"
    if len(variants) == 1:
        subtitle += f", {VARIANTS[variants[0]].title}"
    title = f"{SCENARIOS[scenario].title}\n{subtitle}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_ylabel(panel.unit, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, which="both", labelcolor=INK)
    axes.grid(axis="y", color="#eceef2")
    axes.set_axisbelow(True)
