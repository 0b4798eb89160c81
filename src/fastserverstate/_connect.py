"""`connect`, without what it takes until it is called."""

from __future__ import annotations

import os
from importlib.util import find_spec

from fastserverstate import _reload
from fastserverstate.durations import Duration, seconds_of
from fastserverstate.errors import FastServerStateError

_URL, _NAMESPACE, _SECRET = "FASTSERVERSTATE_URL", "FASTSERVERSTATE_NAMESPACE", "FASTSERVERSTATE_SECRET"
_REQUIRED = "FASTSERVERSTATE_REQUIRED"
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

TIMEOUT = 10.0
IMPORT_TIMEOUT = 2.0  # visitors wait for an import


def connect(
    url: str | None = None,
    *,
    namespace: str | None = None,
    secret: str | bytes | None = None,
    required: bool = True,
    timeout: Duration = TIMEOUT,
) -> None:
    """Share the state with all servers that connect to the same Redis or Valkey server and namespace.

    Call it where the app starts; calling it in every run, with the same arguments, does no harm. Without it, but with
    the environment variable ``FASTSERVERSTATE_URL``, importing the package connects, and gives up after 2 seconds:
    with an error, or with a warning if ``FASTSERVERSTATE_REQUIRED`` is ``0``. Needs
    ``pip install "fastserverstate[redis]"``.

    Parameters
        ``url``: as ``redis://user:password@host:6379/0``, ``rediss://...`` for TLS or ``unix:///path``;
        ``FASTSERVERSTATE_URL`` by default.

        ``namespace``: servers with the same one share their state: up to 100 letters, digits, dots, dashes and
        underscores; ``FASTSERVERSTATE_NAMESPACE`` or ``"default"`` by default.

        ``secret``: 16 bytes or more that all servers have, for values that need pickle;
        ``FASTSERVERSTATE_SECRET`` by default. Without one, such values are refused.

        ``required``: whether it is an error if the server cannot be reached now. If not, this process works by itself
        with a warning, and joins later.

        ``timeout``: how long connecting, and any write, waits for the server: seconds, a ``timedelta``, or text such
        as ``"5s"``; up to 300 seconds. Wrong credentials are an error at once.

    Thread-safety
        Safe from any thread.

    Raises
        ``NotConnectedError`` (of ``fastserverstate.cluster``) if the server is not reached in time, ``ClusterError`` if
        this process is connected otherwise, ``ValueError`` for arguments that cannot be.

    >>> from fastserverstate import connect
    >>> connect("")
    Traceback (most recent call last):
        ...
    ValueError: connect needs the url of a Redis or Valkey server, or FASTSERVERSTATE_URL in the environment.
    """
    url = url or os.environ.get(_URL)
    if not url:
        raise ValueError(f"connect needs the url of a Redis or Valkey server, or {_URL} in the environment.")
    _open_link(url, namespace, secret, required=required, timeout=seconds_of(timeout, "timeout"))


def _open_link(
    url: str,
    namespace: str | None = None,
    secret: str | bytes | None = None,
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
        secret=secret or os.environ.get(_SECRET) or None,
        required=required,
        timeout=timeout,
        import_timeout=import_timeout,
    )


def connect_by_environment() -> None:
    """Connect if the environment says so. What fails is said without the way to it: the app's users see it."""
    url = os.environ.get(_URL)
    if not url:
        return
    required = _is_required()
    try:
        _open_link(url, required=required, timeout=TIMEOUT, import_timeout=IMPORT_TIMEOUT)
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
