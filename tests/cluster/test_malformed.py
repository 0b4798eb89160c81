"""Data that other clients have written to the engine affects nothing else."""

from __future__ import annotations

import re

import pytest
from cluster.waiting import until
from hypothesis import given
from hypothesis import strategies as st

from fastserverstate.cluster import log_follower
from fastserverstate.cluster.replica import parse_entry, parse_key, parse_version

META, LOG, DATA, VERSIONS = (f"fss:{{tests}}:{name}" for name in ("m", "log", "d", "v"))

texts = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"", b"s", b"sk", b"Sk", b"dk", b"rk", b"uk", b"f", b"a", b"w", b"xk", b"s\xff", b"i1", b"1-1"]),
)
things = st.one_of(texts, st.none(), st.integers(), st.text(max_size=5), st.lists(texts, max_size=3))


@given(things, st.one_of(things, st.lists(things, max_size=9)))
def test_parse_entry_never_raises(identifier, fields):
    entry = parse_entry(identifier, fields)
    if entry is not None:
        assert re.fullmatch(rb"[0-9]+-[0-9]+", identifier)
        if isinstance(fields, list):
            assert entry.malformed <= (len(fields) + 1) // 2
        for kind, key, data, _ in entry.changes:
            assert kind in {b"s", b"r", b"d"}
            assert type(key) is str
            assert type(data) is bytes


@given(things)
def test_parse_version_and_key_never_raise(thing):
    version = parse_version(thing)
    assert version is None or b"%d-%d" % version <= thing or thing.startswith(b"0") or b"-0" in thing
    assert parse_key(thing) is None or isinstance(thing, bytes)


@pytest.mark.parametrize(
    "text",
    [b"", b"-", b"1", b"1-", b"-1", b"1-1-1", b"+1-1", b" 1-1", b"1_0-1", b"\xd9\xa1-1", b"9" * 5000 + b"-1", b"1-1\n"],
)
def test_malformed_versions(text):
    assert parse_version(text) is None


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_valid_fields_are_read_among_malformed_ones(others):
    fields = [part for pair in others for part in pair]
    entry = parse_entry(b"5-6", [b"w", b"ticket", b"sk", b"i1", *fields, b"Rlarge", b"", b"ulock", b""])
    assert entry.version == (5, 6)
    assert (b"s", "k", b"i1", False) in entry.changes
    assert (b"r", "large", b"", True) in entry.changes
    assert "lock" in entry.unlocked


# With an engine


@pytest.fixture
def pair(empty_engine, peer):
    return peer(empty_engine.url), peer(empty_engine.url)


@pytest.fixture
def raw(empty_engine):
    with empty_engine.client() as client:
        yield client


def append(raw, fields):
    """Append an entry together with its number, like the script, so that a heartbeat finds no gap."""
    epoch, seq = raw.hget(META, "epoch").decode(), int(raw.hget(META, "seq")) + 1
    with raw.pipeline(transaction=True) as pipeline:
        pipeline.hincrby(META, "seq", 1)
        pipeline.execute_command("XADD", LOG, f"{epoch}-{seq}", *fields)
        pipeline.execute()


def start_new_epoch(raw):
    """Make all servers compare all versions."""
    with raw.pipeline(transaction=True) as pipeline:
        pipeline.hincrby(META, "epoch", 1)
        pipeline.hset(META, "seq", 1)
        pipeline.delete(LOG)
        pipeline.execute()


@pytest.fixture(autouse=True)
def _frequent_heartbeats(monkeypatch):
    """Every test here waits for heartbeats."""
    monkeypatch.setattr(log_follower, "BLOCK", 0.2)


def commands(raw):
    return sum(stats["calls"] for stats in raw.info("commandstats").values())


def assert_well(raw, one, other, name="well"):
    """Check that both follow the log without reconnecting, and can write and lock."""
    for n, (writer, reader) in enumerate([(one, other), (other, one)] * 2):
        writer.node.set(name, n)
        reader.node.sync()
        assert reader.values[name] == n
    for peer in (one, other):
        assert peer.node.leases.acquire([name], 10)
        peer.node.leases.release([name])
    assert one.values == other.values
    for peer in (one, other):
        until(lambda peer=peer: peer.node.status().connected)
    before = commands(raw), [peer.node.status().resyncs for peer in (one, other)]
    beats = [peer.node.follower.last_contact for peer in (one, other)]
    until(lambda: all(peer.node.follower.last_contact > beat for peer, beat in zip((one, other), beats, strict=True)))
    assert commands(raw) - before[0] < 60
    assert [peer.node.status().resyncs for peer in (one, other)] == before[1]


@pytest.mark.parametrize(
    "fields",
    [
        ["s\udcff".encode("utf-8", "surrogateescape"), b"i1"],
        [b"u\xff", b""],
        [b"R\xff\xfe", b""],
        [b"", b""],
        [b"zkind", b"?"],
        [b"\xff", b"\xff"],
        [b"s", b"i1"],
        [b"sk", b""],
        [b"sk", b"\xff"],
        [b"rk", b""],
    ],
    ids=repr,
)
def test_malformed_entry_is_skipped(pair, raw, fields, caplog):
    one, other = pair
    one.node.set("k", "before")
    append(raw, fields)
    append(raw, [*fields, b"sl", b"i2"])
    one.node.sync()
    other.node.sync()
    assert other.values["l"] == 2
    assert_well(raw, one, other)
    skipped = other.node.status().malformed + other.node.status().unreadable
    assert skipped or fields[0] in {b"s", b"rk"}
    assert caplog.text.count("is skipped") <= 2  # once by each server


def test_malformed_fields_are_counted_and_logged_once(pair, raw, caplog):
    _, other = pair
    for _ in range(5):
        append(raw, [b"s\xff", b"i1", b"?", b""])
    other.node.sync()
    assert other.node.status().malformed == 10
    assert caplog.text.count(f"the log of {other.node.engine.address}") == 2


@pytest.mark.parametrize(
    "identifier", ["*", "99999999999999-1", "18446744073709551615-18446744073709551614", "next", "far"]
)
def test_foreign_entry_in_log(pair, raw, identifier):
    """Ids of later entries would have to be higher."""
    one, other = pair
    one.node.set("k", 1)
    epoch, seq = raw.hget(META, "epoch").decode(), int(raw.hget(META, "seq"))
    identifier = {"next": f"{epoch}-{seq + 1}", "far": f"{epoch}-{seq + 1000}"}.get(identifier, identifier)
    raw.execute_command("XADD", LOG, identifier, "sk", "i666")
    one.node.set("l", 1)
    assert_well(raw, one, other)
    assert one.values["l"] == 1
    assert raw.hget(META, "epoch").decode() == epoch  # no lock was lost
    raw.execute_command("XADD", LOG, "*", "sk", "i666")
    until(lambda: raw.xinfo_stream(LOG)["last-generated-id"].decode() == f"{epoch}-{raw.hget(META, 'seq').decode()}")
    assert_well(raw, one, other)
    assert one.values["k"] == 1


def test_log_of_wrong_type(pair, raw):
    raw.delete(LOG)
    raw.set(LOG, "text")
    assert_well(raw, *pair)


@pytest.mark.parametrize("key", [b"\xff", b"", b"k", "é".encode("latin-1")], ids=repr)
@pytest.mark.parametrize("version", [b"", b"x", b"1", b"1-x", b"99999999999999999-1", b"9" * 1000, b"1-1"], ids=len)
def test_damaged_hashes(pair, raw, key, version):
    one, other = pair
    one.node.commit({"k": 1, "l": 2})
    other.node.sync()
    raw.hset(DATA, key, b"i5")
    raw.hset(VERSIONS, key, version)
    start_new_epoch(raw)
    until(lambda: all(peer.node.status().resyncs > 1 for peer in pair))
    assert_well(raw, one, other)
    assert one.values["l"] == 2
    one.node.set("k", 3)
    other.node.sync()
    assert other.values["k"] == 3
    assert re.fullmatch(rb"\d+-\d+", raw.hget(VERSIONS, "k"))
    for peer in pair:
        assert peer.node.leases.acquire(["k"], 10)
        assert peer.node.increment("k", 1, 0)
        peer.node.leases.release(["k"])
    assert one.node.delete("k") == 5


def test_version_without_value_and_value_without_version(pair, raw):
    one, other = pair
    raw.hset(DATA, "value", b"i1")
    raw.hset(VERSIONS, "version", b"1-1")
    start_new_epoch(raw)
    until(lambda: all(peer.node.status().resyncs > 1 for peer in pair))
    assert_well(raw, one, other)
    for key in ("value", "version"):
        one.node.set(key, 2)
        other.node.sync()
        assert other.values[key] == 2


def test_malformed_integer_is_not_incremented(pair, raw):
    one, _ = pair
    one.node.set("n", 1)
    for text in (b"ione", b"i", b"i1.5", b"i0x10", b"i1e3", b"i 1"):
        raw.hset(DATA, "n", text)
        assert one.node.increment("n", 1, 0) is None


@pytest.mark.parametrize("value", [b"", b"x", b"|", b"1|", b"99999999999999999999-1|me", b"\xff"], ids=repr)
def test_damaged_lock_is_free(pair, raw, value):
    raw.set("fss:{tests}:lk:well", value)
    assert_well(raw, *pair)


def test_lock_of_wrong_type_is_free(pair, raw):
    raw.hset("fss:{tests}:lk:well", "a", "b")
    assert_well(raw, *pair)


@pytest.mark.parametrize("field", ["epoch", "seq", "fence", "run"])
@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1.5", b"9" * 30, b"\xff"], ids=repr)
def test_damaged_numbers_start_new_epoch(pair, raw, field, value):
    one, other = pair
    one.node.leases.acquire(["k"], None)
    one.node.set("k", 1)
    one.node.leases.release(["k"])
    raw.hset(META, field, value)
    assert_well(raw, one, other)
    assert one.values["k"] == 1


def test_damaged_expiry_and_waits(pair, raw):
    one, other = pair
    raw.zadd("fss:{tests}:ttl", {b"\xff": 0, b"": 0})
    raw.hset("fss:{tests}:w", mapping={"a": "", "b": "x|y|z", "c": b"\xff", "d": "9" * 100 + "|1|1|1-1|o|well"})
    until(lambda: raw.zcard("fss:{tests}:ttl") == 0)
    assert_well(raw, one, other)
    raw.set("fss:{tests}:ttl", "of the wrong type")
    errors = one.node.status().errors
    until(lambda: one.node.status().errors > errors)
    outages = one.node.status().outages
    one.node.leases.acquire(["k"], None)
    until(lambda: one.node.status().errors > errors + 2)
    assert one.node.status().outages == outages
