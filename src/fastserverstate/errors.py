"""What this package raises."""


class FastServerStateError(Exception):
    """Base class of the package's own errors.

    Wrong keys and missing keys raise the built-in ``TypeError``, ``KeyError`` and ``AttributeError`` instead.

    >>> from fastserverstate import DeadlockError, FastServerStateError
    >>> issubclass(DeadlockError, FastServerStateError)
    True
    """


class RerunSuppressedError(FastServerStateError):
    """`force_rerun_bound_sessions` was called inside a `no_rerun` block.

    >>> from fastserverstate import RerunSuppressedError, force_rerun_bound_sessions, no_rerun
    >>> try:
    ...     with no_rerun:
    ...         force_rerun_bound_sessions("prices")
    ... except RerunSuppressedError:
    ...     print("later")
    later
    """


class WouldBlockError(FastServerStateError, RuntimeError):
    """The call would block a thread that runs an event loop. It was refused and had no effect.

    Blocking such a thread would stop everything that its loop serves: other requests, and every page of a server. So a
    call waits for at most 20 milliseconds there, enough for a lock that is held briefly. Make the call on another
    thread: ``await asyncio.to_thread(...)``.

    >>> import asyncio
    >>> from fastserverstate import WouldBlockError, wait_for
    >>> async def wait():
    ...     try:
    ...         wait_for("result")
    ...     except WouldBlockError:
    ...         print("refused")
    >>> asyncio.run(wait())
    refused
    """


class AccessDeniedError(FastServerStateError, PermissionError):
    """A `guard` has refused the session's access to a key. Nothing was read or written.

    >>> from fastserverstate import AccessDeniedError
    >>> issubclass(AccessDeniedError, PermissionError)
    True
    """


class NotLoggedInError(FastServerStateError):
    """`user_state` was used where no user is logged in with ``st.login()``.

    >>> from fastserverstate import NotLoggedInError, user_state
    >>> try:
    ...     user_state.theme = "dark"
    ... except NotLoggedInError:
    ...     print("no user is logged in")
    no user is logged in
    """


class DeadlockError(FastServerStateError, RuntimeError):
    """Several threads wait for each other's locks. It is raised in one of them, which has to release its locks.

    Leaving the ``with`` blocks releases them, and the other threads continue. The message names the keys, the threads
    and sessions, and the source location where each lock was taken.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from threading import Barrier
    >>> from fastserverstate import DeadlockError, server_state_lock
    >>> both = Barrier(2)
    >>> def take(first, second):
    ...     try:
    ...         with server_state_lock[first]:
    ...             both.wait()
    ...             with server_state_lock[second]:
    ...                 return "has had both"
    ...     except DeadlockError:
    ...         return "has let go"
    >>> with ThreadPoolExecutor() as pool:
    ...     sorted(pool.map(take, ["stock", "orders"], ["orders", "stock"]))
    ['has had both', 'has let go']
    """


class UnreadableValueError(FastServerStateError, ValueError):
    """A stored value cannot be decoded: it is damaged, its format is unknown, or its signature is not valid.

    The value stays where it is stored: in the state file, or in Redis. The message names the key.

    >>> from fastserverstate import UnreadableValueError
    >>> issubclass(UnreadableValueError, ValueError)
    True
    """
