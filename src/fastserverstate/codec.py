"""Values as bytes: a byte for the format, then the payload.

    i  a decimal integer, which the engine can increment
    x  a hexadecimal integer, for integers with thousands of digits
    m  msgpack, for values that it decodes to exactly the same types and content
    a  an Arrow IPC stream, for DataFrames that it decodes exactly
    p  a 32-byte HMAC-SHA256 and a pickle, only with a secret
    q  a pickle, only in a file and without a secret

Loading a pickle can run any code, so a client that can write to Redis could run code on every server. Therefore the MAC
is verified first. It covers the namespace and the key, so that a value cannot be moved to another key. A file belongs
to its owner, who can run any code anyway, so it needs no MAC. If it has a secret, pickles without a MAC are refused.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import hmac
import pickle
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]

from fastserverstate.dataframes import decode_frame, encode_frame, is_frame
from fastserverstate.errors import FastServerStateError, UnreadableValueError

LEAST_SECRET = 16  # bytes
_MAC_SIZE = hashlib.sha256().digest_size
_MOST_DECIMAL_BITS = 10_000  # Python limits the number of decimal digits
_DEEPEST = 200  # levels of nesting
_INT64 = range(-(2**63), 2**64)  # signed or not

_Ext = msgpack.ExtType


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


class UnencodableValueError(FastServerStateError, TypeError):
    """The value cannot be encoded. ``reason`` says why; the message names the key, too."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"server_state[{key!r}] cannot be encoded: {reason}")
        self.reason = reason


class _NotExactError(Exception):
    """Msgpack would decode the value to another one."""


def _exact_int(value: int) -> Any:
    return value if value in _INT64 else _Ext(4, format(value, "x").encode())


def _exact_datetime(value: datetime.datetime) -> Any:
    if value.fold or not (value.tzinfo is None or value.tzinfo is datetime.UTC):
        raise _NotExactError
    return _Ext(5, value.isoformat().encode())


def _exact_time(value: datetime.time) -> Any:
    if value.fold or value.tzinfo is not None:
        raise _NotExactError
    return _Ext(6, value.isoformat().encode())


def _exact_str(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _NotExactError from error
    return value


def _is_exact_key(key: Any) -> bool:
    kind = type(key)
    if kind is str:
        return bool(_exact_str(key) is key)
    return kind in {float, bool, bytes, type(None)} or (kind is int and key in _INT64)


# By exact type: the object that msgspec encodes. The numbers of Ext are part of the format.
_ATOMS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    float: lambda value: value,
    bytes: lambda value: value,
    int: _exact_int,
    str: _exact_str,
    datetime.datetime: _exact_datetime,
    datetime.time: _exact_time,
    datetime.date: lambda value: _Ext(7, value.isoformat().encode()),
    datetime.timedelta: lambda value: _Ext(8, _pack([value.days, value.seconds, value.microseconds])),
    decimal.Decimal: lambda value: _Ext(9, str(value).encode()),
}
_SEQUENCES: dict[type, int] = {tuple: 1, set: 2, frozenset: 3}


def _exact(value: Any, depth: int = 0) -> Any:
    """Return the value in terms of types that msgpack distinguishes."""
    kind = type(value)
    atom = _ATOMS.get(kind)
    if atom is not None:
        return atom(value)
    if depth > _DEEPEST:
        raise _NotExactError
    if kind is list:
        return [_exact(item, depth + 1) for item in value]
    if kind is dict:
        if not all(map(_is_exact_key, value)):
            raise _NotExactError
        return {key: _exact(item, depth + 1) for key, item in value.items()}
    if kind in _SEQUENCES:
        return _Ext(_SEQUENCES[kind], _pack([_exact(item, depth + 1) for item in value]))
    raise _NotExactError


_EXTENSIONS: dict[int, Callable[[bytes], Any]] = {
    1: lambda data: tuple(_unpack(data)),
    2: lambda data: set(_unpack(data)),
    3: lambda data: frozenset(_unpack(data)),
    4: lambda data: int(data, 16),
    5: lambda data: datetime.datetime.fromisoformat(data.decode()),
    6: lambda data: datetime.time.fromisoformat(data.decode()),
    7: lambda data: datetime.date.fromisoformat(data.decode()),
    8: lambda data: datetime.timedelta(*_unpack(data)),
    9: lambda data: decimal.Decimal(data.decode()),
}


def _extension(code: int, data: bytes) -> Any:
    return _EXTENSIONS[code](data)


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=_extension, strict_map_key=False)


_LOADERS: dict[bytes, Callable[[bytes], Any]] = {
    b"i": int,
    b"x": lambda payload: int(payload, 16),
    b"m": _unpack,
    b"a": decode_frame,
    b"p": pickle.loads,
    b"q": pickle.loads,
}


# How `python -m fastserverstate` names the formats, by their tags.
FORMATS = {
    b"i": "integer",
    b"x": "large integer",
    b"m": "msgpack",
    b"a": "Arrow",
    b"p": "signed pickle",
    b"q": "pickle",
}


class Codec:
    """Encodes and decodes the values of a namespace.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, namespace: str, secret: str | bytes | None, *, in_file: bool = False) -> None:
        self._namespace = namespace.encode()
        self._secret = secret.encode() if isinstance(secret, str) else secret
        if self._secret is not None and len(self._secret) < LEAST_SECRET:
            raise ValueError(f"The secret has to have {LEAST_SECRET} bytes or more.")
        self._in_file = in_file

    @classmethod
    def for_file(cls, secret: str | bytes | None) -> Codec:
        """Return the codec of a state file. No namespace of Redis has an empty name."""
        return cls("", secret, in_file=True)

    def encode(self, key: str, value: Any) -> bytes:
        """Raises UnencodableValueError."""
        if type(value) is int:
            if value.bit_length() <= _MOST_DECIMAL_BITS:
                return b"i%d" % value
            return b"x" + format(value, "x").encode()
        stream = encode_frame(value) if is_frame(value) else None
        if stream is not None:
            return b"a" + stream
        cause: Exception | None = None
        try:
            return b"m" + _pack(_exact(value))
        except _NotExactError:
            pass
        except (RecursionError, RuntimeError, OverflowError) as error:  # it contains itself, or was changed meanwhile
            cause = error
        if self._secret is None and not self._in_file:
            raise UnencodableValueError(
                key,
                f"its value, of type {_name(value)}, or an item in it needs pickle, which is used only with a secret "
                "that all servers share: connect(..., secret=...).",
            ) from cause
        try:
            payload = pickle.dumps(value, 5)
        except Exception as error:
            raise UnencodableValueError(
                key, f"pickling its value, of type {_name(value)}, failed with {type(error).__qualname__}: {error}"
            ) from error
        if self._secret is None:
            return b"q" + payload
        return b"p" + self._mac(key, b"p", payload) + payload

    def decode(self, key: str, data: bytes) -> Any:
        """Raises UnreadableValueError."""
        tag, payload = data[:1], data[1:]
        load = _LOADERS.get(tag)
        if load is None:
            raise UnreadableValueError(
                f"server_state[{key!r}] has the format {tag!r}, which this release does not support."
            )
        if tag == b"p":
            payload = self._verified(key, payload)
        elif tag == b"q":
            self._refuse_unsigned(key)
        try:
            return load(payload)
        except Exception as error:
            raise UnreadableValueError(
                f"server_state[{key!r}] cannot be read ({type(error).__qualname__}: {error})."
            ) from error

    def _refuse_unsigned(self, key: str) -> None:
        if self._secret is not None or not self._in_file:
            raise UnreadableValueError(
                f"server_state[{key!r}] is a pickle that is not signed with the secret. It was not loaded. If you "
                "trust the file that it comes from, open that file without a secret."
            )

    def _verified(self, key: str, payload: bytes) -> bytes:
        """Return the pickle in a payload, after a check of its MAC."""
        mac, payload = payload[:_MAC_SIZE], payload[_MAC_SIZE:]
        if self._secret is None:
            whose = "that the file was written with" if self._in_file else "of the other servers"
            raise UnreadableValueError(
                f"server_state[{key!r}] is a signed pickle, which is loaded only with a secret. Give this server the "
                f"secret {whose}: connect(..., secret=...)."
            )
        if not hmac.compare_digest(mac, self._mac(key, b"p", payload)):
            raise UnreadableValueError(
                f"server_state[{key!r}] is a pickle that is not signed with this secret for this key"
                f"{'' if self._in_file else ' and namespace'}. It was not loaded."
            )
        return payload

    def _mac(self, key: str, tag: bytes, payload: bytes) -> bytes:
        name = encode_key(key)
        assert self._secret is not None
        # The lengths ensure that the same bytes, split between key and payload elsewhere, have another MAC.
        head = b"%d|%d|%b|%b|%b|" % (len(self._namespace), len(name), self._namespace, name, tag)
        return hmac.digest(self._secret, head + payload, "sha256")


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def encode_key(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def decode_key(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def shown_key(name: bytes) -> str:
    """Return the key for a message. Never raises."""
    try:
        return repr(decode_key(name))
    except UnicodeDecodeError:
        return repr(name)
