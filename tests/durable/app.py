"""A process whose state is in a file. Runs the code that it receives, and returns `result`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from durable.processes import environment

from fastserverstate.codec import Codec
from fastserverstate.durable.state_file import read_only

TESTS = Path(__file__).parents[1]


class App:
    """Controls the process from the test."""

    def __init__(self, path: Path, durability: str, env: Mapping[str, str]) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "durable.app", str(path), durability],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS,
            env={**environment(), **env},
        )
        assert self._answer() == "ready"

    def do(self, code: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def stored(self, scratch: Path) -> dict[str, Any]:
        """Return what a process would find that opens the file after a crash at this moment."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        copy = scratch / "copy"
        copy.mkdir(mode=0o700)
        for suffix in ("", "-wal"):
            shutil.copy(self.path.with_name(self.path.name + suffix), copy)
        os.kill(self.process.pid, signal.SIGCONT)
        codec = Codec.for_file(None)
        with read_only(copy / self.path.name) as rows:
            found = {row.key: codec.decode(row.key, row.data) for row in rows if row.data is not None}
        shutil.rmtree(copy)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def running(path: Path, durability: str, **env: str) -> Iterator[App]:
    app = App(path, durability, env)
    try:
        yield app
    finally:
        app.end()


def main() -> None:
    import logging  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    import fastserverstate  # noqa: PLC0415
    from fastserverstate import durable  # noqa: PLC0415

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("fastserverstate").addHandler(handler)
    path, durability = sys.argv[1:]
    fastserverstate.connect(f"sqlite:///{path}", durability=durability)  # type: ignore[arg-type]
    scope: dict[str, Any] = {**vars(fastserverstate), "durable": durable, "messages": messages, "os": os}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        scope["result"] = None
        try:
            exec(json.loads(line), scope)
            answer = json.dumps(scope["result"])
        except Exception:
            answer = json.dumps({"error": traceback.format_exc()})
        print(answer, flush=True)


if __name__ == "__main__":
    main()
