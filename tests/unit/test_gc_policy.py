"""Which objects are frozen around Streamlit's collections, and when they are unfrozen."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
from harness.clock import FakeClock

from fastserverstate.configuration import has_gil
from fastserverstate.rerun import gc_policy as module
from fastserverstate.rerun.gc_policy import FreezeSurvivors


def is_fanning_out() -> bool:
    return False


class Cycle:
    def __init__(self) -> None:
        self.itself = self


class Server:
    """End runs, each with a collection as Streamlit runs it."""

    def __init__(self, clock: FakeClock) -> None:
        self.collects = True
        self.clock = clock
        self.policy = FreezeSurvivors(lambda: self.collects)
        self.policy.restart_idle_timer = lambda _: None

    def run(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.advance(1)
            gc.collect()
            self.policy.run_ended(is_fanning_out)


@pytest.fixture
def server(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    gc.unfreeze()
    gc.disable()
    server = Server(clock)
    monkeypatch.setattr(server.policy, "_step", 1)
    yield server
    server.policy.stop()
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def dropped(server: Server) -> Callable[[], Cycle | None]:
    """A frozen object that is garbage."""
    cycle = Cycle()
    reference = weakref.ref(cycle)
    server.run()
    del cycle
    server.run()
    assert reference() is not None
    return reference


def test_survivors_of_a_collection_are_frozen(server: Server) -> None:
    server.run()
    before = gc.get_freeze_count()
    kept = [Cycle() for _ in range(1000)]
    server.run()
    assert gc.get_freeze_count() > before + 1000
    assert len(kept) == 1000


def test_first_session_freezes_existing_objects(server: Server) -> None:
    server.policy.session_began(is_fanning_out)
    assert gc.get_freeze_count() > 1000


def test_first_idle_time_collects_what_the_first_session_froze(server: Server) -> None:
    cycle = Cycle()
    reference = weakref.ref(cycle)
    server.policy.session_began(is_fanning_out)
    del cycle
    gc.collect()
    assert reference() is not None
    server.policy.on_idle()
    assert reference() is None
    assert gc.get_freeze_count() > 1000


def test_objects_are_unfrozen_after_many_runs(server: Server, dropped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS_FROZEN", 10)
    server.run(9)
    assert gc.get_freeze_count() == 0
    server.run()
    assert dropped() is None
    assert gc.get_freeze_count() > 1000


def test_objects_are_unfrozen_when_the_process_has_grown(
    server: Server, dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = module.resident_bytes()
    monkeypatch.setattr(module, "resident_bytes", lambda: 2 * size + module.GROWTH)
    server.run(2)
    assert dropped() is None
    server.run()  # it has not grown since
    assert gc.get_freeze_count() > 1000


def test_unfrozen_objects_stay_so_until_a_collection_traverses_them(
    server: Server, dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUNS_FROZEN", 1)
    server.policy.run_ended(is_fanning_out)
    server.policy.run_ended(is_fanning_out)  # whose collection was before
    assert gc.get_freeze_count() == 0
    server.run()
    assert dropped() is None


def test_idle_time_after_some_runs_collects_all_objects(server: Server, dropped) -> None:
    server.policy.on_idle()
    assert dropped() is not None
    server.run(module.RUNS_BEFORE_IDLE)
    server.policy.on_idle()
    assert dropped() is None
    assert gc.get_freeze_count() > 1000


def test_nothing_is_frozen_without_streamlits_collections(server: Server) -> None:
    server.run()
    server.collects = False
    server.run()
    assert gc.get_freeze_count() == 0


def test_objects_that_the_app_has_frozen_stay_so(server: Server) -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    server.run(3)
    server.policy.stop()
    assert gc.get_freeze_count() == frozen > 0


@pytest.mark.skipif(not has_gil(), reason="without the GIL it would take too long to find out: see _is_left_to_app")
@pytest.mark.parametrize("runs", [0, 1, 50])
def test_objects_that_the_app_freezes_later_stay_so(server: Server, runs: int) -> None:
    server.policy.session_began(is_fanning_out)
    server.run(runs)
    loaded = [Cycle() for _ in range(1000)]
    gc.freeze()
    server.run(3)
    server.policy.on_idle()
    server.policy.stop()
    assert gc.get_freeze_count() > len(loaded)


@pytest.mark.parametrize("end", [FreezeSurvivors.stop, FreezeSurvivors.reset_after_fork])
def test_objects_are_unfrozen_at_the_end(server: Server, end: Callable[[FreezeSurvivors], None]) -> None:
    server.run()
    end(server.policy)
    assert gc.get_freeze_count() == 0
