"""What this package raises."""


class FastServerStateError(Exception):
    """Base class of the package's own errors.

    Wrong keys and missing keys raise the built-in ``TypeError``, ``KeyError`` and ``AttributeError`` instead.
    """


class RerunSuppressedError(FastServerStateError):
    """`force_rerun_bound_sessions` was called inside of a `no_rerun` block."""


class DeadlockError(FastServerStateError, RuntimeError):
    """Threads wait for each other's locks in a circle. Raised in one of them, which has to release what it holds."""
