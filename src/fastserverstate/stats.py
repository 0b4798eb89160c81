"""Figures of this process for those who watch over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """A metric in the terms of OpenMetrics. The name of one with a unit ends with it."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    value: float
    unit: str = ""
    labels: dict[str, str] = field(default_factory=dict)
