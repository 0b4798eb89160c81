"""Warnings about locks and transactions that a run or thread has left open."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence

logger = logging.getLogger("fastserverstate")


def warn_elsewhere(keys: Sequence[str], written: Sequence[str]) -> None:
    """Warn on another thread: logging on a thread that ends would register it again, as one that never ends."""
    thread = threading.Thread(target=warn_of_leftovers, args=("A thread", keys, written), daemon=True)
    with contextlib.suppress(RuntimeError):  # there are too many threads, or the interpreter ends
        thread.start()


def warn_of_leftovers(owner: str, keys: Sequence[str], written: Sequence[str]) -> None:
    """Warn about locks and transactions that were still open. They would have blocked all other sessions."""
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
