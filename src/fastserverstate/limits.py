"""`limiter`: how often something may happen in a sliding window of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from urllib.parse import quote

from fastserverstate._core import HIDDEN, Namespace, Store, Transactions, begin_transaction, plain_key
from fastserverstate.durations import Duration, seconds_of

MOST = 10_000  # uses that a limiter can count

Times = tuple[float, ...]  # of the uses in the window, in Unix time


class Limiter:
    """What `limiter` returns.

    >>> from fastserverstate import Limiter, limiter
    >>> isinstance(limiter("api", 50, per="1m"), Limiter)
    True
    """

    def __init__(self, limits: Limits, key: str, limit: int, seconds: float) -> None:
        self._limits = limits
        self._key = key
        self._limit = limit
        self._seconds = seconds

    def allow(self, cost: int = 1) -> bool:
        """Count `cost` uses if that many are left now. Return whether they were counted."""
        self._check(cost)
        return self._limits.count(self._key, self._used, self._limit, cost, self._seconds)

    def remaining(self) -> int:
        """Return how many uses are left now. It subscribes to nothing."""
        return max(0, self._limit - len(self._used(self._limits.times(self._key))))

    def retry_after(self, cost: int = 1) -> float:
        """Return the seconds after which `cost` uses will be left, if there are none until then. 0 if they are now."""
        self._check(cost)
        used = sorted(self._used(self._limits.times(self._key)))
        excess = len(used) + cost - self._limit
        return 0.0 if excess <= 0 else max(0.0, used[excess - 1] + self._seconds - self._limits.now())

    def reset(self) -> None:
        """Forget the uses."""
        self._limits.forget(self._key)

    def _used(self, times: Times) -> Times:
        begin = self._limits.now() - self._seconds
        return tuple(each for each in times if each > begin)

    def _check(self, cost: int) -> None:
        if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= self._limit:
            raise ValueError(f"cost is a whole number from 1 to the limit of {self._limit}, not {cost!r}.")

    def __repr__(self) -> str:
        return f"<limiter: {self._limit} in {self._seconds:g} s>"


class Limits:
    """The uses that limiters count, as hidden keys of a store."""

    def __init__(self, store: Store, expire: Callable[..., None], now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._expire = expire
        self._state = Namespace(store)
        self._transactions = Transactions(store)
        self.now = now

    def limiter(self, name: str, limit: int, *, per: Duration) -> Limiter:
        """Return a limiter that allows `limit` uses in any period `per`: of an API, a form or a button.

        ``limiter("api", 50, per="1m").allow()`` counts one use and returns True, or returns False if 50 were counted in
        the last minute. All sessions, threads and connected servers that use the same name share the count. Use a name
        such as ``f"form/{user}"`` for a limit of each user. Limiters are cheap: make them where you use them.

        ``allow(cost)`` counts several uses or none, ``remaining()`` tells how many are left, ``retry_after()`` in how
        many seconds there will be one, and ``reset()`` forgets the uses.

        The window slides: a use counts until `per` has passed since it. A name that is not used takes no memory after
        that. In a transaction, uses count when it ends, and not if it is discarded.

        Parameters
            ``name``: any text. ``limit``: 1 to 10,000. ``per``: seconds, a ``timedelta``, or text such as ``"1m"``.

        Thread-safety
            Safe from any thread: no more than `limit` uses are counted, however many threads and servers ask. Servers
            compare their clocks, which should not differ by much.

        Raises
            ``TypeError`` if the name is not a ``str``, ``ValueError`` for a limit, period or cost that cannot be.

        >>> from fastserverstate import limiter
        >>> api = limiter("api", 2, per="1m")
        >>> api.allow(), api.allow(), api.allow()
        (True, True, False)
        >>> api.remaining(), 0 < api.retry_after() <= 60
        (0, True)
        >>> api.reset()
        """
        key = f"{HIDDEN}limits/{quote(plain_key(name), safe='')}"
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
            raise ValueError(f"limiter({name!r}, ...) takes a limit from 1 to {MOST:,}, a whole number, not {limit!r}.")
        seconds = seconds_of(per, "per")
        if not 0 < seconds < math.inf:
            raise ValueError(f"limiter({name!r}, ...) needs a period such as per='1m', not {per!r}.")
        return Limiter(self, key, limit, seconds)

    def times(self, key: str) -> Times:
        found: Times = self._store.peek(key, ())
        return found

    def count(self, key: str, used: Callable[[Times], Times], limit: int, cost: int, seconds: float) -> bool:
        with begin_transaction(self._transactions, (key,), None):
            times = used(self.times(key))
            if len(times) + cost > limit:
                return False
            self._state[key] = times + (self.now(),) * cost
            self._expire(key, after=seconds)
            return True

    def forget(self, key: str) -> None:
        self._state.pop(key, None)
