"""The viewers of one session."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastserverstate.rerun.viewers import Viewer, Viewers


def test_what_a_replaced_run_has_shown_may_not_have_been_sent() -> None:
    """After a click, Streamlit drops the rest of the earlier run. The next run may be stopped before it shows it."""
    region: Any = SimpleNamespace(viewers={}, rendering="first")
    viewers = Viewers()
    viewers.run_started()
    viewer = Viewer(region, None, None, None, region.rendering)
    viewers.add(viewer, viewers.run)
    viewers.run_started()
    viewers.run_finished((), lambda _: True)
    assert viewers.outdated() == []
    region.rendering = "second"
    assert viewers.outdated() == [viewer]
    assert viewer.is_lost


def test_what_a_stopped_run_has_shown_was_sent() -> None:
    region: Any = SimpleNamespace(viewers={}, rendering="first")
    viewers = Viewers()
    viewers.run_started()
    viewer = Viewer(region, None, None, None, region.rendering)
    viewers.add(viewer, viewers.run)
    viewers.run_finished((), lambda _: True)
    viewers.run_started()
    region.rendering = "second"
    assert viewers.outdated() == [viewer]
    assert not viewer.is_lost
