"""Control the interpreter: scripts in a process of their own, and the switch interval."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager


def run_python(prelude: str, source: str, *options: str, timeout: float | None = None) -> str:
    """Run a script in an interpreter of its own and return its output. It must exit with 0 and print no errors."""
    script = subprocess.run(
        [sys.executable, "-X", "faulthandler", *options, "-c", prelude + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # includes the folders of the tests
    )
    assert (script.returncode, script.stderr) == (0, ""), script.stderr
    return script.stdout


@contextmanager
def switch_interval(seconds: float) -> Iterator[None]:
    """Set how long a thread may keep the GIL while others wait for it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
