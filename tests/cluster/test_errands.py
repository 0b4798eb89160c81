"""The thread that does the engine's work for event loops."""

from __future__ import annotations

import logging
import threading

import pytest

from fastserverstate.cluster.errands import Errands, LateError
from fastserverstate.cluster.errors import ClusterError


@pytest.fixture
def errands() -> Errands:
    return Errands(lambda: None)


def test_work_that_comes_after_the_end_is_refused(errands: Errands) -> None:
    assert errands.do("The first", lambda: 1) == 1
    errands.close()
    with pytest.raises(ClusterError, match="The second was not done, because this process has disconnected"):
        errands.do("The second", lambda: 2)


def test_work_that_waits_at_the_end_is_refused_or_logged(errands: Errands, caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = threading.Event(), threading.Event()
    errands.leave("The first", lambda: (begun.set(), go_on.wait()))
    begun.wait()
    waiting = errands.leave("The second", lambda: 2)
    with pytest.raises(LateError):
        errands.do("The third", lambda: 3)
    errands.close()
    with caplog.at_level(logging.ERROR):
        go_on.set()
        with pytest.raises(ClusterError, match="The second was not done"):
            waiting.wait(20)
        while not errands._late.is_over():
            pass
    assert "The third was left to a thread by an event loop, and not done" in caplog.text


def test_a_thread_that_cannot_be_started_is_started_later(errands: Errands, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(LateError):
            errands.do("The first", lambda: done.append(1))
    assert errands.leave("The second", lambda: done.append(2)).wait(20) is None
    assert done == [1, 2]
    errands.close()
