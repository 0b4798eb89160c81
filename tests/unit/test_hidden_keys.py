"""Keys of the package's own, which apps do not see."""

from collections.abc import Iterator

import pytest

from fastserverstate import configure, server_state
from fastserverstate._core import HIDDEN
from fastserverstate._instances import key_options, store

KEY = f"{HIDDEN}test/one"


@pytest.fixture
def hidden() -> Iterator[str]:
    server_state["seen"] = 1
    server_state[KEY] = 2
    yield KEY
    server_state.pop(KEY, None)
    server_state.pop("seen", None)


def test_a_hidden_key_is_in_no_iteration_and_not_counted(hidden: str) -> None:
    assert list(server_state) == ["seen"]
    assert len(server_state) == 1
    assert dict(server_state.items()) == {"seen": 1}
    assert repr(server_state) == "server_state(seen)"
    server_state.clear()
    assert server_state[hidden] == 2
    assert len(server_state) == 0


def test_a_hidden_key_is_read_and_written_like_others(hidden: str) -> None:
    server_state[hidden] = 3
    assert server_state[hidden] == 3
    del server_state[hidden]
    assert hidden not in server_state
    assert len(server_state) == 1


def test_the_store_lists_hidden_keys_when_asked(hidden: str) -> None:
    assert store.keys() == ["seen"]
    assert {"seen", hidden} <= set(store.keys(hidden=True))


def test_patterns_do_not_apply_to_hidden_keys(hidden: str) -> None:
    configure("*", compare="always", ttl=100)
    try:
        assert key_options.of("seen")[3][0] == 100
        assert key_options.of(hidden)[3] == (0.0, 0.0, True)
    finally:
        configure("*", compare="content", ttl=float("inf"))


@pytest.mark.parametrize("start", ["start_journal", "watch_changes"])
def test_no_journal_records_hidden_keys(start: str, hidden: str) -> None:
    if start == "start_journal":
        store.start_journal(1)
        take, stop = lambda: store.take_journal()[2], store.stop_journal
    else:
        store.watch_changes()
        take, stop = store.take_changes, store.close_changes
    try:
        assert [change[0] for change in take()] == ["seen"]
        server_state[hidden] = 4
        server_state["seen"] = 5
        assert [(key, value) for key, value, *_ in take()] == [("seen", 5)]
        del server_state[hidden]
        assert not take()
    finally:
        stop()


@pytest.mark.parametrize("start", ["\0", "\0fss", "\0fsx/", "fss/", "ä\0fss/"])
def test_other_keys_are_not_hidden(start: str) -> None:
    server_state[start] = 1
    assert list(server_state) == [start]
    del server_state[start]
