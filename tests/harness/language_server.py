"""Pyright's language server, which is what an editor asks when its user hovers over a name or types a dot."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class LanguageServer:
    """A server whose workspace is one folder."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._ids = itertools.count(1)
        self._files = itertools.count(1)
        self._ask(
            "initialize",
            processId=os.getpid(),
            rootUri=folder.as_uri(),
            workspaceFolders=[{"uri": folder.as_uri(), "name": folder.name}],
            capabilities={
                "textDocument": {"hover": {"contentFormat": ["markdown"]}},
                "workspace": {"configuration": True, "workspaceFolders": True},
            },
        )
        self._tell("initialized")

    def hover(self, text: str) -> str:
        """Return what an editor shows for the last word of the text."""
        return str(self._at_the_end("hover", text, -1)["contents"]["value"])

    def completions(self, text: str) -> set[str]:
        """Return what an editor offers after the text."""
        found = self._at_the_end("completion", text, 0)
        return {item["label"] for item in (found["items"] if isinstance(found, dict) else found)}

    def _at_the_end(self, question: str, text: str, shift: int) -> Any:
        document = {"uri": (self._folder / f"file{next(self._files)}.py").as_uri()}
        self._tell(
            "textDocument/didOpen", textDocument={**document, "languageId": "python", "version": 1, "text": text}
        )
        lines = text.splitlines()
        position = {"line": len(lines) - 1, "character": len(lines[-1]) + shift}
        return self._ask(f"textDocument/{question}", textDocument=document, position=position)

    def _tell(self, method: str, **params: object) -> None:
        self._send({"method": method, "params": params})

    def _ask(self, method: str, **params: object) -> Any:
        number = next(self._ids)
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = self._receive()
            if message.get("id") == number and "method" not in message:
                return message["result"]
            if "id" in message:
                self._send({"id": message["id"], "result": self._answer(message)})

    def _answer(self, request: dict[str, Any]) -> Any:
        if request["method"] != "workspace/configuration":
            return None
        settings: dict[str, dict[str, object]] = {"python": {"pythonPath": sys.executable}}
        return [settings.get(item.get("section", ""), {}) for item in request["params"]["items"]]

    def _send(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        headers = dict(
            line.decode().strip().lower().split(": ", 1) for line in iter(self._process.stdout.readline, b"\r\n")
        )
        message: dict[str, Any] = json.loads(self._process.stdout.read(int(headers["content-length"])))
        return message


@contextlib.contextmanager
def language_server(folder: Path) -> Iterator[LanguageServer]:
    """Start a server, which finds the packages that this process finds, until the block ends."""
    command = [str(Path(sys.executable).with_name("pyright-langserver")), "--stdio"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            yield LanguageServer(process, folder)
        finally:
            process.kill()
