"""What this package raises."""


class FastServerStateError(Exception):
    """Base class of the package's own errors.

    Wrong keys and missing keys raise the built-in ``TypeError``, ``KeyError`` and ``AttributeError`` instead.

    >>> from fastserverstate import DeadlockError, FastServerStateError
    >>> issubclass(DeadlockError, FastServerStateError)
    True
    """


class RerunSuppressedError(FastServerStateError):
    """`force_rerun_bound_sessions` was called inside of a `no_rerun` block.

    >>> from fastserverstate import RerunSuppressedError, force_rerun_bound_sessions, no_rerun
    >>> try:
    ...     with no_rerun:
    ...         force_rerun_bound_sessions("prices")
    ... except RerunSuppressedError:
    ...     print("later")
    later
    """


class WouldBlockError(FastServerStateError, RuntimeError):
    """The call would have to wait, on a thread that runs an event loop. It was refused, and has done nothing.

    While such a thread waits, all that its loop serves stands still: other requests, and every page of a server. So a
    call waits for up to 20 milliseconds there, which is enough for a lock that is held for a moment. Make the call on
    another thread: ``await asyncio.to_thread(...)``.

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


class DeadlockError(FastServerStateError, RuntimeError):
    """Threads wait for each other's locks in a circle. Raised in one of them, which has to release what it holds.

    Leaving the ``with`` blocks does that, and the others go on. The message names the keys, the threads and sessions,
    and where each lock was taken.

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
