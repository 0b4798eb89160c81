"""Values are decoded exactly, or an error names the key and the type."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import pickle
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserverstate.change import content_fingerprint
from fastserverstate.codec import Codec, UnencodableValueError, decode_key, encode_key
from fastserverstate.errors import FastServerStateError, UnreadableValueError

SECRET = "sixteen bytes or more"
bare = Codec("app", None)
keyed = Codec("app", SECRET)
own_file = Codec.for_file(None)
keyed_file = Codec.for_file(SECRET)

UTC = datetime.UTC
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(),
    st.binary(),
    st.datetimes().map(lambda value: value.replace(fold=0)),
    st.datetimes(timezones=st.just(UTC)).map(lambda value: value.replace(fold=0)),
    st.dates(),
    st.times().map(lambda value: value.replace(fold=0)),
    st.timedeltas(),
    st.decimals(),
)
keys = st.one_of(
    st.text(), st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none(), st.binary(), st.floats(allow_nan=False)
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(keys, inner),
        st.lists(inner).map(tuple),
        st.sets(st.one_of(st.integers(), st.text())),
        st.frozensets(st.one_of(st.integers(), st.text())),
    ),
    max_leaves=20,
)


def shape(value):
    """Describe the value so that 1, 1.0 and True differ, as do 0.0 and -0.0, and the orders of keys."""
    kind = type(value)
    if kind is float:
        return kind, "nan" if math.isnan(value) else repr(value)
    if kind in {list, tuple}:
        return kind, [shape(item) for item in value]
    if kind is dict:
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if kind in {set, frozenset}:
        return kind, sorted(map(repr, value))
    return kind, repr(value)


@given(values)
def test_plain_values_round_trip(value):
    data = bare.encode("k", value)
    assert shape(bare.decode("k", data)) == shape(value)


@pytest.mark.parametrize(
    "number",
    [0, -1, 2**53 + 1, 2**63, -(2**63) - 1, 10**4000, -(16**5000)],
    ids=lambda number: f"{number.bit_length()} bits",
)
def test_integers_of_any_size(number):
    assert bare.decode("k", bare.encode("k", number)) == number


@given(st.text(st.characters()))
def test_keys_round_trip(key):
    assert decode_key(encode_key(key)) == key


def test_lone_surrogate_round_trips():
    assert decode_key(encode_key("\ud800")) == "\ud800"
    assert keyed.decode("k", keyed.encode("k", "\ud800")) == "\ud800"


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


NEEDS_PICKLE = [
    Colour.RED,
    Text("x"),
    OrderedDict(a=1),
    1j,
    range(3),
    [1, {"deep": (Colour.RED,)}],
    {(1, 2): 3},
    datetime.datetime(2026, 1, 1, fold=1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1), "name")),
]


@pytest.mark.parametrize("value", NEEDS_PICKLE, ids=repr)
def test_other_values_need_a_secret(value):
    data = keyed.encode("k", value)
    found = keyed.decode("k", data)
    assert data[:1] == b"p"
    assert shape(found) == shape(value)
    with pytest.raises(UnencodableValueError, match=r"'k'.*secret") as caught:
        bare.encode("k", value)
    assert type(value).__qualname__ in str(caught.value)
    assert issubclass(UnencodableValueError, FastServerStateError)
    assert issubclass(UnencodableValueError, TypeError)
    with pytest.raises(UnreadableValueError, match=r"'k'.*secret"):
        bare.decode("k", data)


@pytest.mark.parametrize("value", NEEDS_PICKLE, ids=repr)
def test_files_keep_plain_pickles(value):
    data = own_file.encode("k", value)
    assert data[:1] == b"q"
    assert shape(own_file.decode("k", data)) == shape(value)
    for codec in (bare, keyed, keyed_file):
        with pytest.raises(UnreadableValueError, match=r"'k'.*not signed"):
            codec.decode("k", data)


@pytest.mark.parametrize("value", NEEDS_PICKLE, ids=repr)
def test_files_with_a_secret_keep_signed_pickles(value):
    data = keyed_file.encode("k", value)
    assert data[:1] == b"p"
    assert shape(keyed_file.decode("k", data)) == shape(value)
    with pytest.raises(UnreadableValueError, match=r"'k'.*secret that the file"):
        own_file.decode("k", data)
    for codec, key in ((keyed_file, "j"), (keyed, "k"), (Codec.for_file("another secret of 16"), "k")):
        with pytest.raises(UnreadableValueError, match=r"is not signed with this secret for this key"):
            codec.decode(key, data)


def test_self_referential_value():
    value = []
    value.append(value)
    found = keyed.decode("k", keyed.encode("k", value))
    assert found[0] is found
    with pytest.raises(UnencodableValueError, match="list"):
        bare.encode("k", value)


def test_unpicklable_value():
    with pytest.raises(UnencodableValueError, match=r"'k'.*function"):
        keyed.encode("k", lambda: None)
    with pytest.raises(UnencodableValueError, match=r"'k'.*function") as caught:
        own_file.encode("k", lambda: None)
    assert caught.value.reason in str(caught.value)


class Boom:
    loaded = False

    def __reduce__(self):
        return (setattr, (Boom, "loaded", True))


@pytest.mark.failure(11)
def test_pickle_with_wrong_mac_is_not_loaded():
    """For a changed value, another key, namespace or secret, and without a MAC."""
    honest = keyed.encode("k", Boom())
    crafted = pickle.dumps(Boom(), 5)
    wrong = [
        (keyed, "j", honest),
        (keyed, "other", honest),
        (Codec("apq", SECRET), "k", honest),
        (Codec("app", "another secret of 16"), "k", honest),
        (bare, "k", honest),
        (keyed, "k", b"p" + crafted),
        (keyed, "k", b"p" + bytes(32) + crafted),
        (keyed, "k", b"p"),
        (bare, "k", b"q" + crafted),
        (keyed, "k", b"q" + crafted),
        (keyed_file, "k", b"q" + crafted),
        (keyed_file, "k", honest),
        *((keyed, "k", honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :]) for at in range(1, len(honest))),
    ]
    for codec, key, data in wrong:
        with pytest.raises(UnreadableValueError, match=repr(key)):
            codec.decode(key, data)
    assert not Boom.loaded
    keyed.decode("k", honest)
    assert Boom.loaded


@pytest.mark.failure(11)
def test_mac_covers_length_of_key():
    """The same bytes, split between key and payload elsewhere, must have another MAC."""
    payload = pickle.dumps(1, 5)
    one = keyed._mac("a|p", b"p", payload)
    assert one != keyed._mac("a", b"p", b"p|" + payload)


def test_secret_is_long_enough_and_does_not_leak():
    with pytest.raises(ValueError, match="16 bytes"):
        Codec("app", "short")
    for text in (repr(keyed), str(keyed)):
        assert SECRET not in text
    with pytest.raises(UnreadableValueError) as caught:
        keyed.decode("k", b"p" + bytes(40))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"i", b"ix", b"m", b"m\xc1", b"?", b"x?", b"m\xc7\x01\x63x"])
def test_malformed_value_is_unreadable(data):
    with pytest.raises(UnreadableValueError, match="'k'"):
        bare.decode("k", data)


def test_decimals_keep_their_digits():
    value = decimal.Decimal("1.00")
    assert str(bare.decode("k", bare.encode("k", value))) == "1.00"


FRAMES = {
    "numbers": lambda: pd.DataFrame({"a": [1, 2, 3], "b": [0.5, math.nan, -0.0], "c": [True, False, True]}),
    "text": lambda: pd.DataFrame({"name": ["Ada", "Grace", ""], "note": ["ü", "x" * 1000, "\0"]}),
    "missing": lambda: pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": pd.array(["x", None, ""])}),
    "categories": lambda: pd.DataFrame(
        {"a": pd.Categorical(["x", "y", "x"], categories=["z", "y", "x"], ordered=True)}
    ),
    "moments": lambda: pd.DataFrame(
        {"a": pd.date_range("2024-01-01", periods=3, tz="Europe/Berlin"), "b": pd.to_timedelta([1, 2, 3], "s")}
    ),
    "named index": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="id")),
    "two indexes": lambda: pd.DataFrame(
        {"a": [1, 2]}, index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["one", "other"])
    ),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_frames_need_no_secret(make):
    frame = make()
    data = bare.encode("k", frame)
    assert data[:1] == b"a"
    decoded = bare.decode("k", data)
    pd.testing.assert_frame_equal(decoded, frame)
    assert content_fingerprint(decoded) == content_fingerprint(frame)
    assert bare.encode("k", make()) == bare.encode("k", decoded) == data  # the engine compares bytes


class Frame(pd.DataFrame):
    """A subclass, which Arrow would decode as a DataFrame."""


INEXACT_FRAMES = {
    "objects": lambda: pd.DataFrame({"a": [1, "x", (2,)]}),
    "decimals of several scales": lambda: pd.DataFrame({"a": [decimal.Decimal("1.0"), decimal.Decimal("1.00")]}),
    "numbers as names": lambda: pd.DataFrame({1: [1], "1": [2]}),
    "names twice": lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "subclass": lambda: Frame({"a": [1]}),
    "numbered columns": lambda: pd.DataFrame(np.arange(6.0).reshape(3, 2)),
    "no columns": lambda: pd.DataFrame(index=range(3)),
}


@pytest.mark.parametrize("make", INEXACT_FRAMES.values(), ids=INEXACT_FRAMES)
def test_inexact_frames_are_pickled_or_refused(make):
    with pytest.raises(UnencodableValueError, match=r"'k'.*DataFrame|'k'.*Frame"):
        bare.encode("k", make())
    data = keyed.encode("k", make())
    assert data[:1] == b"p"
    assert content_fingerprint(keyed.decode("k", data)) == content_fingerprint(make())


@pytest.mark.parametrize("cut", [1, 2, 100, 300, -1, -9])
def test_truncated_frame_is_unreadable(cut):
    data = bare.encode("k", pd.DataFrame({"a": range(100)}))
    with pytest.raises(UnreadableValueError, match="'k'"):
        bare.decode("k", data[:cut] if cut > 0 else data[: len(data) // 2 + cut])
