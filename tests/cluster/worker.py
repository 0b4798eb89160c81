"""A process with a node. Runs the code that it receives, with the names `peer` and `node`, and returns `result`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


class Worker:
    """Controls the process from the test."""

    def __init__(self, url: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.worker", url, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        )
        assert self.answer() == "ready"

    def ask(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker has ended"
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def do(self, code: str) -> Any:
        self.ask(code)
        return self.answer()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


def main() -> None:
    import traceback  # noqa: PLC0415

    from cluster.subject import Peer  # noqa: PLC0415

    peer = Peer(sys.argv[1], **json.loads(sys.argv[2]))
    scope: dict[str, Any] = {"peer": peer, "node": peer.node}
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
