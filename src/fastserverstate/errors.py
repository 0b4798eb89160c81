"""What this package raises."""


class FastServerStateError(Exception):
    """Base class of the package's own errors.

    Wrong keys and missing keys raise the built-in ``TypeError``, ``KeyError`` and ``AttributeError`` instead.
    """


class RerunSuppressedError(FastServerStateError):
    """`force_rerun_bound_sessions` was called inside of a `no_rerun` block."""
