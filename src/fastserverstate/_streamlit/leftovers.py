"""Warnings about locks and transactions that a run or thread has left open."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence

logger = logging.getLogger("fastserverstate")


def warn_elsewhere(keys: Sequence[str], written: Sequence[str]) -> None:
    """Of a thread that ends. Logging there would bring it back, as a thread that never ends."""
    thread = threading.Thread(target=warn_of_leftovers, args=("A thread", keys, written), daemon=True)
    with contextlib.suppress(RuntimeError):  # there are too many threads, or the interpreter ends
        thread.start()


def warn_of_leftovers(owner: str, keys: Sequence[str], written: Sequence[str]) -> None:
    """What was interrupted between `acquire` and `release` would keep all other sessions waiting."""
    for key in keys:
        if key not in written:
            logger.warning(
                "%s has ended while it held server_state_lock[%r], which was released. Use: with "
                "server_state_lock[%r]:",
                owner,
                key,
                key,
            )
    if written:
        logger.warning(
            "%s has ended inside of a transaction, and what that had written was discarded: %s. Use: with "
            "transaction(...):",
            owner,
            ", ".join(f"server_state[{key!r}]" for key in written),
        )
