"""`connect` and its environment variables: repeated calls, failures, and the end of the process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from cluster.subject import SECRET
from cluster.waiting import until
from harness.engine import engine
from harness.server import free_port
from unit.helpers import run_script
from unit.test_docs import run_examples

import fastserverstate
from fastserverstate import cluster
from fastserverstate.cluster.errors import ClusterError, NotConnectedError


@pytest.fixture(autouse=True)
def _disconnected():
    yield
    cluster.disconnect()
    fastserverstate.server_state.clear()


def run(source, **env):
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path, **env},
    )


def test_repeated_connect_is_a_no_op(empty_engine):
    fastserverstate.connect(empty_engine.url, namespace="tests", secret=SECRET)
    link, threads = cluster.membership.adapter, threading.active_count()
    for _ in range(100):
        fastserverstate.connect(empty_engine.url, namespace="tests", secret=SECRET, required=False)
    assert cluster.membership.adapter is link
    assert threading.active_count() == threads
    with pytest.raises(ClusterError, match="other arguments") as caught:
        fastserverstate.connect(empty_engine.url, namespace="another", secret=SECRET)
    assert SECRET not in str(caught.value)
    cluster.disconnect()
    cluster.disconnect()
    fastserverstate.connect(empty_engine.url, namespace="another", secret=SECRET)
    assert cluster.status().namespace == "another"


def test_connect_from_environment(empty_engine):
    done = run(
        "from fastserverstate import cluster, server_state; server_state['k'] = print\n"
        "print(cluster.status().namespace, cluster.status().connected)",
        FASTSERVERSTATE_URL=empty_engine.url,
        FASTSERVERSTATE_NAMESPACE="named",
        FASTSERVERSTATE_SECRET=SECRET,
    )
    assert (done.stdout, done.stderr) == ("named True\n", "")


# Imports like every rerun of a script, and prints each result.
IMPORTS = """
import sys, traceback
for line in sys.stdin:
    try:
        import fastserverstate
        from fastserverstate import cluster
        print("connected" if cluster.status().connected else "alone", flush=True)
    except Exception as error:
        print(len(traceback.extract_tb(error.__traceback__)), type(error).__name__, error, sep="|", flush=True)
"""


class Importer:
    """A process that imports the package on request."""

    def __init__(self, **env):
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-c", IMPORTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **env},
        )

    def again(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()


WAY_OUT = "Start that server, correct FASTSERVERSTATE_URL, or set FASTSERVERSTATE_REQUIRED=0 to start without it."


def test_import_without_engine_fails(own_engine):
    """Every rerun fails in the same way, until the engine is up."""
    url = own_engine.url
    own_engine.kill()
    with Importer(FASTSERVERSTATE_URL=url.replace("//", "//user:pass-word@")) as importer:
        for _ in range(3):
            frames, kind, text = importer.again().split("|")
            assert (int(frames), kind) == (3, "NotConnectedError")  # the script's, and two of the package's
            assert re.fullmatch(rf"{url} cannot be reached \(.* Connection refused\)\. {WAY_OUT}", text)
        own_engine.start()
        with own_engine.client() as client:
            client.execute_command("ACL", "SETUSER", "user", "on", ">pass-word", "~*", "&*", "+@all")
        until(lambda: importer.again() == "connected")


def test_import_with_hanging_engine_fails(own_engine):
    own_engine.signal(signal.SIGSTOP)
    with Importer(FASTSERVERSTATE_URL=own_engine.url) as importer:
        for _ in range(3):
            assert importer.again().endswith(f"cannot be reached (no answer within 2 seconds). {WAY_OUT}")
        own_engine.signal(signal.SIGCONT)
        until(lambda: importer.again() == "connected")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://user:pass-word@{}", "NotConnectedError|redis://{} cannot be reached (invalid username-password pair"),
        ("redis://no.such.host.invalid:1", "NotConnectedError|redis://no.such.host.invalid:1 cannot be reached ("),
        (
            "http://{}",
            "ValueError|FASTSERVERSTATE_URL is set, but: connect needs a URL that begins as sqlite:///state.db or ",
        ),
    ],
    ids=["password", "name", "scheme"],
)
def test_import_with_wrong_url_fails(either_engine, url, error):
    address = f"127.0.0.1:{either_engine.port}"
    with Importer(FASTSERVERSTATE_URL=url.format(address)) as importer:
        for _ in range(2):
            assert importer.again().startswith(f"3|{error.format(address)}")


def test_import_with_optional_engine(own_engine):
    own_engine.kill()
    with Importer(FASTSERVERSTATE_URL=own_engine.url, FASTSERVERSTATE_REQUIRED="0") as importer:
        assert importer.again() == "alone"
        own_engine.start()
        until(lambda: importer.again() == "connected")


def test_invalid_required_variable():
    with Importer(FASTSERVERSTATE_URL="redis://127.0.0.1:1", FASTSERVERSTATE_REQUIRED="maybe") as importer:
        assert importer.again().endswith(
            "FASTSERVERSTATE_REQUIRED is 1 or 0, for whether the app is to start without the server, not 'maybe'."
        )


def test_connect_without_engine_fails(own_engine):
    own_engine.kill()
    with pytest.raises(NotConnectedError, match=rf"127\.0\.0\.1:{own_engine.port} cannot be reached"):
        fastserverstate.connect(own_engine.url, timeout=0.3)
    assert cluster.status() is None


def test_connect_with_optional_engine(own_engine, caplog):
    own_engine.kill()
    fastserverstate.connect(own_engine.url, timeout=0.3, required=False)
    assert "This server works by itself until it can be reached." in caplog.text
    own_engine.start()
    until(lambda: cluster.status().connected)


def test_wrong_password_fails_immediately(either_engine):
    """Waiting would not help."""
    url = either_engine.url.replace("//", "//user:pass-word@")
    with pytest.raises(NotConnectedError, match="invalid username-password pair"):
        fastserverstate.connect(url, namespace="tests", timeout=300)


def test_missing_dependency_names_extra():
    done = run(
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'redis' else find(name, *more)\n"
        "import fastserverstate\n"
        "fastserverstate.connect('redis://127.0.0.1:1')"
    )
    assert done.stderr.strip().splitlines()[-1] == (
        'ImportError: connect needs redis. Install what it takes: pip install "fastserverstate[redis]"'
    )


@pytest.mark.parametrize("timeout", [0, -1, 301, float("inf"), float("nan")])
def test_invalid_timeout(timeout):
    """After some minutes, the engine forgets the reply to the first attempt of an operation."""
    with pytest.raises(ValueError, match=r"timeout is a (duration from 0 up|number of seconds above 0 and up to 300)"):
        fastserverstate.connect("redis://127.0.0.1:1", timeout=timeout)


def test_connect_merges_local_keys(empty_engine, peer):
    other = peer(empty_engine.url)
    other.node.set("both", "theirs")
    fastserverstate.server_state.update(mine=1, both="mine")
    fastserverstate.connect(empty_engine.url, namespace="tests", secret=SECRET)
    assert dict(fastserverstate.server_state) == {"mine": 1, "both": "theirs"}
    other.node.sync()
    assert other.values == {"mine": 1, "both": "theirs"}


def test_url_options(empty_engine, peer):
    """Options that would change the form of replies are ignored."""
    one = peer(f"{empty_engine.url}/0?protocol=3&decode_responses=true&socket_timeout=0.001&client_name=shop")
    other = peer(empty_engine.url)
    other.node.set("k", ["x" * 10_000])
    one.node.sync()
    one.node.increment("n", 1, 0)
    assert one.values == {"k": ["x" * 10_000], "n": 1}
    with empty_engine.client() as client:
        assert "shop" in {connection["name"] for connection in client.client_list()}


RELOADED = """
    import sys
    import fastserverstate
    from fastserverstate import cluster

    fastserverstate.connect({url!r}, namespace="tests")
    fastserverstate.server_state["k"] = 1
    before = cluster.membership.adapter
    for name in list(sys.modules):
        if name.partition(".")[0] == "fastserverstate":
            del sys.modules[name]
    import fastserverstate
    from fastserverstate import cluster

    fastserverstate.connect({url!r}, namespace="tests")
    assert cluster.membership.adapter is before
    assert threading.active_count() == 2, threading.enumerate()
    print(dict(fastserverstate.server_state))
    cluster.disconnect()
"""


def test_connection_survives_hot_reload(empty_engine):
    assert run_script(RELOADED.format(url=empty_engine.url), package=True) == "{'k': 1}\n"


def test_process_exits_while_engine_hangs(proxy):
    """Even with a lock held, which expires."""
    source = (
        "import fastserverstate, sys\n"
        f"fastserverstate.connect({proxy.url!r}, namespace='tests')\n"
        "fastserverstate.server_state_lock['k'].acquire()\n"
        "print('locked', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            proxy.to_server = proxy.to_client = False
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_failures_are_counted(own_engine):
    fastserverstate.connect(own_engine.url, namespace="tests", secret=SECRET, timeout=0.3)
    before = cluster.status()
    assert (before.connected, before.errors, before.outages, before.lag) == (True, 0, 0, 0)
    own_engine.kill()
    with pytest.raises(NotConnectedError):
        fastserverstate.server_state["k"] = 1
    until(lambda: not cluster.status().connected)
    failed = cluster.status()
    assert failed.errors >= 2
    assert failed.outages == 1
    assert failed.last_error
    until(lambda: cluster.status().age > failed.age)
    own_engine.start()
    until(lambda: cluster.status().connected)
    assert cluster.status().resyncs > before.resyncs


def test_redis_cluster_node(kind, peer):
    """A namespace is in one slot, so its node works like a single server. Other nodes name it in their error."""

    def node():
        return engine("--cluster-enabled", "yes", "--cluster-port", str(free_port()), kind=kind)

    def ask(server, *command):
        with server.client() as client:
            return client.execute_command("CLUSTER", *command)

    def is_ready(server, nodes):
        info = ask(server, "INFO").decode()
        return "cluster_state:ok" in info and f"cluster_known_nodes:{nodes}" in info

    with node() as server, node() as next_server:
        ask(server, "ADDSLOTSRANGE", 0, 16383)
        bus = next_server.option("--cluster-port")
        ask(server, "MEET", "127.0.0.1", next_server.port, bus)
        until(lambda: is_ready(server, 2) and is_ready(next_server, 2))
        one, other = peer(server.url, timeout=1.0), peer(server.url)
        one.node.commit({"a": 1, "{b}": "x" * 10_000})
        one.node.leases.acquire(["a", "{b}"], None)
        one.node.increment("n", 2**60, 0)
        one.node.increment("n", 1, 0)
        one.node.leases.release(["a", "{b}"])
        other.node.sync()
        assert other.values == one.values == {"a": 1, "{b}": "x" * 10_000, "n": 2**60 + 1}
        with server.client() as client:
            assert len({ask(server, "KEYSLOT", name) for name in client.scan_iter()}) == 1
        with pytest.raises(NotConnectedError, match=rf"has moved to 127\.0\.0\.1:{server.port}"):
            fastserverstate.connect(next_server.url, namespace="tests", timeout=0.5)


@pytest.mark.parametrize("name", cluster.__all__)
def test_public_names_have_docstrings(name):
    documented = getattr(cluster, name)
    assert run_examples(documented.__doc__, {}, name) or isinstance(documented, type)
