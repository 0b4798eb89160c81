"""Other processes that use a state file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534

IMPORTS = """
import grp, os, pwd, signal, sqlite3, sys
from fastserverstate.durable.errors import DurabilityError
from fastserverstate.durable.state_file import Row, StateFile, read_only
path = sys.argv[1]
"""


FILL = "file = StateFile.open(path); file.write([Row('k', b'i1', 1, 1, None)], 1); file.close()"


def environment() -> dict[str, str]:
    without = {name: value for name, value in os.environ.items() if not name.startswith("FASTSERVERSTATE_")}
    return {**without, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run_script(source: str, path: Path) -> str:
    """Run a script and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + source, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_unprivileged(source: str, path: Path) -> str:
    """Run a script as a user who is not root, to whom the folder of the path belongs.

    The user changes after the imports: another user may not be able to enter the folders of the interpreter.
    """
    if os.geteuid() == 0:
        for place in (path.parent, *path.parent.iterdir()):
            os.chown(place, NOBODY, NOBODY)
        source = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n{source}"
    return run_script(source, path)


@contextmanager
def running(source: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in the background."""
    command = [sys.executable, "-c", IMPORTS + source, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()
