"""What is set aside from Streamlit's collections, and when it is put back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from fastserverstate.rerun import collector as module
from fastserverstate.rerun.collector import SettingAside


class Cycle:
    def __init__(self) -> None:
        self.itself = self


class Server:
    """Runs that end, each with a collection as Streamlit makes it."""

    def __init__(self) -> None:
        self.collects = True
        self.now = 0.0
        self.aside = SettingAside(lambda: self.collects)
        self.aside.keep_watch = lambda _pump: None
        self._pump = SimpleNamespace(loop=SimpleNamespace(time=lambda: self.now))

    def run(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 1
            gc.collect()
            self.aside.run_ended(self._pump)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    gc.unfreeze()
    gc.disable()
    server = Server()
    monkeypatch.setattr(server.aside, "_step", 1)
    yield server
    server.aside.stop()
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def dropped(server: Server) -> Callable[[], Cycle | None]:
    """What was set aside, and is garbage since."""
    cycle = Cycle()
    reference = weakref.ref(cycle)
    server.run()
    del cycle
    server.run()
    assert reference() is not None
    return reference


def test_what_survives_a_collection_is_set_aside(server: Server) -> None:
    server.run()
    before = gc.get_freeze_count()
    kept = [Cycle() for _ in range(1000)]
    server.run()
    assert gc.get_freeze_count() > before + 1000
    assert len(kept) == 1000


def test_first_session_sets_aside_what_is_there(server: Server) -> None:
    server.aside.session_began(server._pump)
    assert gc.get_freeze_count() > 1000


def test_first_rest_goes_through_what_the_first_session_has_set_aside(server: Server) -> None:
    cycle = Cycle()
    reference = weakref.ref(cycle)
    server.aside.session_began(server._pump)
    del cycle
    gc.collect()
    assert reference() is not None
    server.aside.at_rest()
    assert reference() is None
    assert gc.get_freeze_count() > 1000


def test_all_is_put_back_after_many_runs(server: Server, dropped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS_SET_ASIDE", 10)
    server.run(9)
    assert gc.get_freeze_count() == 0
    server.run()
    assert dropped() is None
    assert gc.get_freeze_count() > 1000


def test_all_is_put_back_when_the_process_has_grown(server: Server, dropped, monkeypatch: pytest.MonkeyPatch) -> None:
    size = module.resident_bytes()
    monkeypatch.setattr(module, "resident_bytes", lambda: 2 * size + module.GROWTH)
    server.run(2)
    assert dropped() is None
    server.run()  # it has not grown since
    assert gc.get_freeze_count() > 1000


def test_what_was_put_back_stays_until_a_collection_has_gone_through_it(
    server: Server, dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUNS_SET_ASIDE", 1)
    server.aside.run_ended(server._pump)
    server.aside.run_ended(server._pump)  # whose collection was before
    assert gc.get_freeze_count() == 0
    server.run()
    assert dropped() is None


def test_all_is_gone_through_at_rest_after_some_runs(server: Server, dropped) -> None:
    server.aside.at_rest()
    assert dropped() is not None
    server.run(module.RUNS_BEFORE_REST)
    server.aside.at_rest()
    assert dropped() is None
    assert gc.get_freeze_count() > 1000


def test_nothing_is_set_aside_without_streamlits_collections(server: Server) -> None:
    server.run()
    server.collects = False
    server.run()
    assert gc.get_freeze_count() == 0


def test_objects_that_the_app_has_frozen_stay_so(server: Server) -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    server.run(3)
    server.aside.stop()
    assert gc.get_freeze_count() == frozen > 0


@pytest.mark.parametrize("runs", [0, 1, 50])
def test_objects_that_the_app_freezes_later_stay_so(server: Server, runs: int) -> None:
    server.aside.session_began(server._pump)
    server.run(runs)
    loaded = [Cycle() for _ in range(1000)]
    gc.freeze()
    server.run(3)
    server.aside.at_rest()
    server.aside.stop()
    assert gc.get_freeze_count() > len(loaded)


@pytest.mark.parametrize("end", [SettingAside.stop, SettingAside.reset_after_fork])
def test_all_is_put_back_at_the_end(server: Server, end: Callable[[SettingAside], None]) -> None:
    server.run()
    end(server.aside)
    assert gc.get_freeze_count() == 0
