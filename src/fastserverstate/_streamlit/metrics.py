"""Metrics on Streamlit's endpoint, /_stcore/metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from fastserverstate._streamlit.names import HAS_METRIC_FAMILIES
from fastserverstate.metrics import Figure


class Metric:
    """Adapts a figure to `streamlit.runtime.stats.Stat`."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self.family_name = figure.name
        self.type = figure.kind
        self.unit = figure.unit
        self.help = figure.help

    def to_metric_str(self) -> str:
        figure = self._figure
        labels = ",".join(f'{name}="{value}"' for name, value in figure.labels.items())
        line = f"{figure.name}{'_total' * (figure.kind == 'counter')}{{{labels}}} {figure.value}"
        if HAS_METRIC_FAMILIES:
            return line
        unit = [f"# UNIT {figure.name} {figure.unit}"] if figure.unit else []
        return "\n".join([f"# TYPE {figure.name} {figure.kind}", *unit, f"# HELP {figure.name} {figure.help}", line])

    def marshall_metric_proto(self, metric: Any) -> None:
        if not HAS_METRIC_FAMILIES:
            return  # Streamlit would add it to the sizes of caches
        for name, value in self._figure.labels.items():
            metric.labels.add(name=name, value=value)
        point = metric.metric_points.add()
        (point.gauge_value if self.type == "gauge" else point.counter_value).double_value = self._figure.value


class Metrics:
    """A provider of figures for Streamlit's `StatsManager`."""

    def __init__(self, names: Sequence[str], collect: Callable[[], Iterable[Figure]]) -> None:
        self.stats_families = names
        self._collect = collect

    def get_stats(self, family_names: Collection[str] | None = None) -> Any:
        found = [Metric(figure) for figure in self._collect() if not family_names or figure.name in family_names]
        return {metric.family_name: [metric] for metric in found} if HAS_METRIC_FAMILIES else found
