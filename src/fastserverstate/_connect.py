"""`connect`, without what it takes until it is called."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote

from fastserverstate import _reload
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.errors import FastServerStateError

_URL, _NAMESPACE, _SECRET = "FASTSERVERSTATE_URL", "FASTSERVERSTATE_NAMESPACE", "FASTSERVERSTATE_SECRET"
_REQUIRED, _DURABILITY = "FASTSERVERSTATE_REQUIRED", "FASTSERVERSTATE_DURABILITY"
_REDIS_SCHEMES = {"redis", "rediss", "unix"}
_EXAMPLES = "sqlite:///state.db or redis://localhost:6379/0"
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

TIMEOUT = 10.0
IMPORT_TIMEOUT = 2.0  # visitors wait for an import


def connect(
    url: str | None = None,
    *,
    durability: Literal["interval", "always"] | None = None,
    show: Literal["after_durable"] | None = None,
    namespace: str | None = None,
    secret: str | bytes | None = None,
    required: bool = True,
    timeout: Duration = TIMEOUT,
) -> None:
    """Keep the state in a file across restarts, or share it with other servers over Redis or Valkey.

    The URL decides. ``connect("sqlite:///state.db")`` restores the state from the file, and stores every change in it.
    ``connect("redis://...")`` shares the state with all servers that connect to the same Redis or Valkey server and
    namespace; it needs ``pip install "fastserverstate[redis]"``.

    Call it where the app starts; calling it in every run, with the same arguments, does no harm. Without it, but with
    the environment variable ``FASTSERVERSTATE_URL``, importing the package connects, and gives up after 2 seconds:
    with an error, or with a warning if ``FASTSERVERSTATE_REQUIRED`` is ``0``.

    Parameters
        ``url``: ``sqlite:///state.db`` for a file in the working directory, ``sqlite:////var/lib/app/state.db`` for an
        absolute path; ``redis://user:password@host:6379/0``, ``rediss://...`` for TLS or ``unix:///path``;
        ``FASTSERVERSTATE_URL`` by default.

        ``durability``, for a file: ``"interval"`` (default) stores changes every 200 milliseconds, so a crash or power
        cut loses at most the last ones. With ``"always"``, a write returns when it is on disk; threads that write at
        the same time share one commit. ``FASTSERVERSTATE_DURABILITY`` by default.

        ``show``, for a file with ``durability="always"``: with ``"after_durable"``, no other thread reads a value
        before it is on disk, so no session shows what a crash can undo.

        ``namespace``, for Redis: servers with the same one share their state: up to 100 letters, digits, dots, dashes
        and underscores; ``FASTSERVERSTATE_NAMESPACE`` or ``"default"`` by default.

        ``secret``: 16 bytes or more that sign the values that need pickle; ``FASTSERVERSTATE_SECRET`` by default. In
        Redis, such values are refused without one. In a file they are stored unsigned, since the file is its owner's.

        ``required``: whether it is an error if the server cannot be reached, or the file cannot be used. If not, this
        process works by itself with a warning. It joins a Redis server later.

        ``timeout``: how long connecting waits, for the Redis server or for another process that still has the file,
        and any write for the Redis server: seconds, a ``timedelta``, or text such as ``"5s"``; up to 300 seconds.
        Wrong credentials are an error immediately.

    Thread-safety
        Safe from any thread.

    Raises
        ``NotConnectedError`` (of ``fastserverstate.cluster``) if the server is not reached in time, ``ClusterError`` if
        this process is connected otherwise; ``FileInUseError``, ``UnsafeFileError`` or another ``DurabilityError`` (of
        ``fastserverstate.durable``), or ``OSError``, if the file cannot be used; ``ValueError`` for arguments that
        cannot be.

    >>> from fastserverstate import connect
    >>> connect("state.db")
    Traceback (most recent call last):
        ...
    ValueError: connect needs a URL that begins as sqlite:///state.db or redis://localhost:6379/0 does.
    """
    url = url or os.environ.get(_URL)
    if not url:
        raise ValueError(f"connect needs a URL such as {_EXAMPLES}, or {_URL} in the environment.")
    _open(
        url,
        durability=durability,
        show=show,
        namespace=namespace,
        secret=secret,
        required=required,
        timeout=seconds_of(timeout, "timeout"),
    )


def _open(
    url: str,
    *,
    durability: str | None = None,
    show: str | None = None,
    namespace: str | None = None,
    secret: str | bytes | None = None,
    required: bool,
    timeout: float,
    import_timeout: float | None = None,
) -> None:
    scheme = url.partition(":")[0].lower()
    secret = secret or os.environ.get(_SECRET) or None
    if scheme == "sqlite":
        if namespace is not None:
            raise ValueError("namespace is for Redis. The state of another app belongs in another file.")
        _open_file(url, durability, show, secret, required=required, timeout=import_timeout or timeout)
    elif scheme in _REDIS_SCHEMES:
        if durability is not None or show is not None:
            raise ValueError("durability and show are for files: connect('sqlite:///state.db', durability=...).")
        _open_link(url, namespace, secret, required=required, timeout=timeout, import_timeout=import_timeout)
    else:
        # The message has no part of the URL, which may contain a password.
        raise ValueError(f"connect needs a URL that begins as {_EXAMPLES} does.")


def _open_file(
    url: str, durability: str | None, show: str | None, secret: str | bytes | None, *, required: bool, timeout: float
) -> None:
    name = unquote(url.partition(":///")[2])
    if not name or name == ":memory:":
        raise ValueError("The URL names no file. Write sqlite:///state.db, or sqlite:////absolute/path/state.db.")
    durability = durability or os.environ.get(_DURABILITY) or "interval"
    if durability not in {"interval", "always"}:
        raise ValueError(f"durability is 'interval' or 'always', not {durability!r}.")
    if show not in {None, "after_durable"}:
        raise ValueError(f"show is 'after_durable' or None, not {show!r}.")
    if show is not None and durability != "always":
        raise ValueError("show='after_durable' needs durability='always'.")
    from fastserverstate.durable import connection  # noqa: PLC0415

    _reload.keep_also()
    connection.connect(
        Path(os.path.abspath(name)),
        secret=secret,
        durability=cast("Literal['interval', 'always']", durability),
        show_when_durable=show is not None,
        required=required,
        timeout=timeout,
    )


def _open_link(
    url: str,
    namespace: str | None,
    secret: str | bytes | None,
    *,
    required: bool,
    timeout: float,
    import_timeout: float | None = None,
) -> None:
    if find_spec("redis") is None:
        raise ImportError('connect needs redis. Install what it takes: pip install "fastserverstate[redis]"')
    from fastserverstate.cluster import membership  # noqa: PLC0415

    _reload.keep_also()
    membership.connect(
        url,
        namespace=namespace or os.environ.get(_NAMESPACE) or "default",
        secret=secret,
        required=required,
        timeout=timeout,
        import_timeout=import_timeout,
    )


def connect_by_environment() -> None:
    """Connect if the environment says so. What fails is said without the way to it: the app's users see it."""
    url = os.environ.get(_URL)
    if not url or sys.argv[:1] == ["-m"]:  # `python -m fastserverstate`, which works on a file that no process may have
        return
    required = _is_required()
    try:
        _open(url, required=required, timeout=TIMEOUT, import_timeout=IMPORT_TIMEOUT)
    except ConnectionError as error:
        way_out = f"Start that server, correct {_URL}, or set {_REQUIRED}=0 to start without it."
        raise type(error)(f"{error} {way_out}") from None
    except (FastServerStateError, ImportError, ValueError) as error:
        raise type(error)(f"{_URL} is set, but: {error}") from None


def _is_required() -> bool:
    word = os.environ.get(_REQUIRED) or "1"
    if word.lower() not in _WORDS:
        raise ValueError(f"{_REQUIRED} is 1 or 0, for whether the app is to start without the server, not {word!r}.")
    return _WORDS[word.lower()]
