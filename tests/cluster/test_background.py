"""The thread that calls the engine for event loops."""

from __future__ import annotations

import logging
import threading

import pytest

from fastserverstate.cluster.background import BackgroundChanges, LateError
from fastserverstate.cluster.errors import ClusterError


@pytest.fixture
def background() -> BackgroundChanges:
    return BackgroundChanges(lambda: None)


def test_work_after_close_is_refused(background: BackgroundChanges) -> None:
    assert background.do("The first", lambda: 1) == 1
    background.close()
    with pytest.raises(ClusterError, match="The second was not done, because this process has disconnected"):
        background.do("The second", lambda: 2)


def test_queued_work_at_close_is_refused_or_logged(
    background: BackgroundChanges, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    background.submit("The first", lambda: (begun.set(), go_on.wait()))
    begun.wait()
    waiting = background.submit("The second", lambda: 2)
    with pytest.raises(LateError):
        background.do("The third", lambda: 3)
    background.close()
    with caplog.at_level(logging.ERROR):
        go_on.set()
        with pytest.raises(ClusterError, match="The second was not done"):
            waiting.wait(20)
        while not background._late.is_over():
            pass
    assert "The third, called on an event loop, was not done" in caplog.text


def test_thread_start_is_retried(background: BackgroundChanges, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(LateError):
            background.do("The first", lambda: done.append(1))
    assert background.submit("The second", lambda: done.append(2)).wait(20) is None
    assert done == [1, 2]
    background.close()
