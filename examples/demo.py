"""Start the example app and print its URL: python examples/demo.py

It listens on port 8501 or the next free one; PORT chooses another. Ctrl-C ends it.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

APP = Path(__file__).with_name("app.py")
FIRST_PORT = 8501
PORTS_TO_TRY = 100
SECONDS_TO_START = 60
SECONDS_TO_STOP = 10


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True


def wanted_port() -> int | None:
    wanted = os.environ.get("PORT")
    if not wanted:
        return None
    if not wanted.isdecimal() or not 0 < int(wanted) < 65536:
        sys.exit(f"PORT must be a number from 1 to 65535, not {wanted!r}.")
    return int(wanted)


def free_ports(first: int, count: int) -> list[int]:
    last = min(first + PORTS_TO_TRY - 1, 65535)
    ports = list(islice(filter(is_free, range(first, last + 1)), count))
    if len(ports) < count:
        sys.exit(f"Of the ports from {first} to {last}, fewer than {count} are free. Set PORT to another.")
    return ports


def choose_port() -> int:
    port = wanted_port()
    if port is None:
        return free_ports(FIRST_PORT, 1)[0]
    if not is_free(port):
        sys.exit(f"Port {port} is in use. Set PORT to another, or leave it out.")
    return port


def is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Demo:
    """The server in a process of its own, until the user stops it."""

    def __init__(self, port: int) -> None:
        self.stopping = False
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self.ask_to_stop)
        self.port = port
        options = {
            "server.port": port,
            "server.headless": "true",
            "browser.serverAddress": "localhost",  # otherwise it asks the internet for the address of this machine
            "browser.gatherUsageStats": "false",
            "logger.level": "warning",
        }
        command = [sys.executable, "-m", "streamlit", "run", str(APP)]
        # Replaces Streamlit's own announcement. Errors are shown.
        self.server = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())], stdout=subprocess.DEVNULL
        )

    def ask_to_stop(self, *_: object) -> None:
        self.stopping = True

    def runs(self) -> bool:
        return not self.stopping and self.server.poll() is None

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while self.runs() and not is_healthy(self.port):
            if time.monotonic() > deadline:
                self.stop()
                sys.exit(f"Streamlit did not start within {SECONDS_TO_START} seconds.")
            time.sleep(0.1)

    def wait_until_asked_to_stop(self) -> None:
        while self.runs():
            time.sleep(0.1)

    def stop(self) -> None:
        self.server.terminate()
        try:
            self.server.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


def main() -> None:
    demo = Demo(choose_port())
    demo.wait_until_healthy()
    if demo.runs():
        print(f"\n  The fastserverstate examples are running: http://localhost:{demo.port}")
        print("  Open it in two tabs: what you do in one shows in the other.")
        print("  Press Ctrl-C to stop.\n", flush=True)
    demo.wait_until_asked_to_stop()
    demo.stop()
    if not demo.stopping:
        sys.exit(f"Streamlit ended by itself with exit code {demo.server.returncode}.")
    print("\n  Stopped.")


if __name__ == "__main__":
    main()
