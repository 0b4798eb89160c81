"""The results as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from load.bench import PACKAGES, VARIANTS
from load.scenarios import Figures


@dataclass(frozen=True)
class Result:
    scenario: str
    variant: str
    package: str
    sessions: int
    figures: Figures


def as_text(results: list[Result]) -> str:
    """A table for each scenario and variant, with a column for each package."""
    lines: list[str] = []
    for scenario, variant in dict.fromkeys((result.scenario, result.variant) for result in results):
        columns = [result for result in results if (result.scenario, result.variant) == (scenario, variant)]
        title = f"{scenario}: {VARIANTS[variant].title}, {columns[0].sessions} sessions"
        lines += ["", title, _line("", [PACKAGES[column.package].name for column in columns])]
        for figure in dict.fromkeys(name for column in columns for name in column.figures):
            lines.append(_line(figure, [_cell(column.figures.get(figure)) for column in columns]))
    return "\n".join(lines)


def as_json(results: list[Result], environment: dict[str, str]) -> str:
    return json.dumps({"environment": environment, "results": [asdict(result) for result in results]}, indent=2) + "\n"


def _line(name: str, cells: list[str]) -> str:
    return f"  {name:32}" + "".join(f"{cell:>24}" for cell in cells)


def _cell(value: float | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
