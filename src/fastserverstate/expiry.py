"""`expire`, and the thread that removes keys at their deadlines."""

from __future__ import annotations

import logging
import math
import threading
import time

from fastserverstate._core import Store, plain_key
from fastserverstate.durations import Duration, seconds_of

logger = logging.getLogger("fastserverstate")

RETRY = 1.0  # seconds, after an error
LONGEST_END = 1.0  # seconds that the end of the process waits for the thread


class Expirer:
    """The thread that removes the keys of a store when they are due. It sleeps while none is.

    Thread-safety
        Safe from any thread, and from finalizers that interrupt it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget the thread, which belongs to the parent process."""
        self._is_closed = False
        self._running: threading.Thread | None = None
        self._unstarted = [self._new_thread()]

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="fastserverstate.expiry", daemon=True)

    def start(self) -> None:
        """Start the thread if it does not run yet. Call this when keys may get deadlines."""
        if not self._unstarted:
            return
        try:
            thread = self._unstarted.pop()
            thread.start()
            self._running = thread
        except IndexError:  # another thread was faster
            return
        except RuntimeError as error:  # as many as the system allows, or the process ends
            self._unstarted.append(self._new_thread())
            logger.warning("Keys of server_state expire later, because a thread could not be started: %s", error)

    def _run(self) -> None:
        while not self._is_closed:
            try:
                if self._store.expire_due() != 0:
                    self._store.wait_for_deadline()
            except Exception:
                logger.exception("Removing expired keys has failed. The next attempt is in %g seconds.", RETRY)
                time.sleep(RETRY)

    def close(self) -> None:
        """End the thread. Called before the process ends: its memory must not go while others may wake it."""
        self._is_closed = True
        self._store.wake_for_deadlines()
        if self._running is not None and self._running is not threading.current_thread():
            self._running.join(LONGEST_END)


class Expiry:
    """Sets the deadlines of single keys.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, expirer: Expirer) -> None:
        self._store = store
        self._expirer = expirer

    def expire(self, key: str, *, after: Duration | None) -> None:
        """Delete the key after this time: seconds, a ``timedelta``, or text such as ``"1h"``. None cancels that.

        The key is deleted as by ``del``: sessions that depend on it are rerun, and its `on_change` callbacks are
        called, with the reason ``"expired"``. That happens within 50 milliseconds of the deadline or, if a thread holds
        the key's lock then, when the lock is released.

        Assigning the key ends its deadline. `atomic`, ``atomic.increment``, ``atomic.append`` and `touch` keep it, so a
        counter can end a fixed time after its first increment. If ``configure`` gives the key a `ttl`, the deadline
        that you set here is that of the present value: every write, of any kind, begins the `ttl` again.

        Inside a transaction, the deadline is set when the transaction ends, together with its writes, and is discarded
        with them.

        Thread-safety
            Safe from any thread. Waits while another thread holds the key's lock.

        Raises
            ``KeyError`` if the key is not set, ``ValueError`` for a negative time, ``TypeError`` if the key is not a
            ``str`` or `after` is not a time, ``DeadlockError`` if the wait would never end.

        >>> from fastserverstate import expire, server_state
        >>> server_state["fx"] = {"EUR": 1.08}
        >>> expire("fx", after="1h")
        >>> expire("fx", after=None)
        >>> del server_state["fx"]
        """
        key = plain_key(key)
        seconds = seconds_of(after, "after")
        if seconds == math.inf:
            seconds = None
        if not self._store.expire(key, seconds):
            raise KeyError(
                f"server_state has no key {key!r}, so it cannot expire. Set it first, or configure a ttl for keys that "
                f"are set later: configure({key!r}, ttl=...)."
            )
        if seconds is not None:
            self._expirer.start()
