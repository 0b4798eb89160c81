"""`connect`, without what it takes until it is called."""

from __future__ import annotations

import os
from importlib.util import find_spec

from fastserverstate import _reload
from fastserverstate.durations import Duration, seconds_of

_URL, _NAMESPACE, _SECRET = "FASTSERVERSTATE_URL", "FASTSERVERSTATE_NAMESPACE", "FASTSERVERSTATE_SECRET"


def connect(
    url: str | None = None,
    *,
    namespace: str | None = None,
    secret: str | bytes | None = None,
    required: bool = True,
    timeout: Duration = 10.0,
) -> None:
    """Share the state with all servers that connect to the same Redis or Valkey server and namespace.

    Call it where the app starts; calling it in every run, with the same arguments, does no harm. Without it, but with
    the environment variable ``FASTSERVERSTATE_URL``, importing the package connects. Needs
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
        as ``"5s"``; up to 300 seconds.

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
    missing = [name for name in ("redis", "msgspec") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'connect needs {" and ".join(missing)}. Install what it takes: pip install "fastserverstate[redis]"'
        )
    from fastserverstate.cluster import open_link  # noqa: PLC0415

    _reload.keep_also()
    open_link(
        url,
        namespace=namespace or os.environ.get(_NAMESPACE) or "default",
        secret=secret or os.environ.get(_SECRET) or None,
        required=required,
        timeout=seconds_of(timeout, "timeout"),
    )


def connect_by_environment() -> None:
    if os.environ.get(_URL):
        connect()
