"""The cost of sharing state between servers, compared with redis-py and a query for every access: make bench-cluster

Everything runs on this machine, over loopback, with its own engine (AOF, fsync every second).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from cluster.subject import Peer
from cluster.worker import Worker
from harness.engine import engine
from live import LiveServer, detached
from redis.backoff import NoBackoff
from redis.retry import Retry
from screens import POLL, measure

import fastserverstate
from fastserverstate import cluster

SIZE = 64  # bytes of a value
WRITES = 3000
READS = 20_000
SCREENS = 200  # writes whose way to the browsers is measured
SECONDS = 3.0
FOLLOWERS = 4

ECHO = """
import time, threading
took = []
apply = peer.table.apply
def watch(changes, origin):
    result = apply(changes, origin)
    now = time.perf_counter_ns()
    for _, value, _ in changes:
        if type(value) is tuple:
            took.append(now - value[0])
    return result
peer.table.apply = watch
"""

RAW_ECHO = """
import redis, threading, time
client = redis.Redis.from_url({url!r}, protocol=2)
took = []
def follow():
    cursor = "$"
    while True:
        found = client.xread({{"raw": cursor}}, block=0)
        now = time.perf_counter_ns()
        for cursor, fields in found[0][1]:
            took.append(now - int(fields[b"t"]))
threading.Thread(target=follow, daemon=True).start()
"""

INCREMENTS = """
import time
end = time.perf_counter() + {seconds}
result = 0
while time.perf_counter() < end:
    {increment}
    result += 1
"""
RAW_CLIENT = """
import redis
node.close()
client = redis.Redis.from_url({url!r}, protocol=2)
"""


def quantiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{1000 * statistics.median(ordered):.2f} / {1000 * ordered[len(ordered) * 99 // 100]:.2f} ms"


def timed(count: int, act: Callable[[int], object]) -> list[float]:
    took = []
    for n in range(count):
        start = time.perf_counter()
        act(n)
        took.append(time.perf_counter() - start)
    return took


@contextmanager
def workers(url: str, count: int, namespace: str = "bench") -> Iterator[list[Worker]]:
    started = [Worker(url, namespace=namespace) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.end()


def row(name: str, figure: str, baseline: str = "") -> None:
    print(f"| {name} | {figure} | {baseline} |", flush=True)


def read(state: Any) -> float:
    start = time.perf_counter()
    for _ in range(READS):
        state["k"]
    return (time.perf_counter() - start) / READS


def reads(url: str) -> None:
    """Measure tracked reads in a live script run, alternately alone and connected."""
    state = fastserverstate.server_state
    took: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        server = LiveServer(Path(folder))
        server.start()
        with server.script_run():
            with detached():
                state["k"] = -1
            read(state)  # the interpreter warms up
            for round_ in range(40):
                connected = bool(round_ % 2)
                with detached():
                    if connected:
                        fastserverstate.connect(url, namespace="bench-reads", secret="a secret of the tests")
                    state["k"] = round_
                took[connected] += [read(state) for _ in range(10)]
                cluster.disconnect()
        server.stop()
    alone, connected_ = (statistics.median(took[which]) for which in (False, True))
    ratio = statistics.median(after / before for before, after in zip(took[False], took[True], strict=True))
    with client(url) as raw:
        raw.set("k", b"x" * SIZE)
        asked = statistics.median(timed(1000, lambda _: raw.get("k")))
    row("tracked read, alone", f"{1e9 * alone:.1f} ns")
    row("tracked read, connected", f"{1e9 * connected_:.1f} ns ({ratio:.2f}x)", f"{1e9 * asked:,.0f} ns")


def client(url: str) -> Any:
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2)


def writes(url: str) -> None:
    value = "x" * (SIZE - 10)
    with Peer(url, namespace="bench") as one, client(url) as raw:
        ours = timed(WRITES, lambda n: one.node.set(f"k{n % 100}", f"{value}{n:09}"))
        plain = timed(WRITES, lambda n: raw.set(f"k{n % 100}", f"{value}{n:09}"))
        row("write, p50 / p99", quantiles(ours), quantiles(plain))
        ours = timed(WRITES, lambda _: one.node.increment("n", 1, 0))
        plain = timed(WRITES, lambda _: raw.incr("n"))
        row("increment, p50 / p99", quantiles(ours), quantiles(plain))

        def lock(_: int) -> None:
            one.node.leases.acquire(["lock"], None)
            one.node.leases.release(["lock"])

        def raw_lock(_: int) -> None:
            with raw.lock("lock", timeout=10):
                pass

        ours, plain = timed(WRITES, lock), timed(WRITES, raw_lock)
        row("lock and release, p50 / p99", quantiles(ours), quantiles(plain))
        row("locks/s of one thread", f"{WRITES / sum(ours):,.0f}", f"{WRITES / sum(plain):,.0f}")


def propagation(url: str) -> None:
    with workers(url, 2) as (reader, raw_reader), Peer(url, namespace="bench") as one, client(url) as raw:
        reader.do(ECHO)
        raw_reader.do("node.close()")
        raw_reader.do(RAW_ECHO.format(url=url))
        time.sleep(0.3)
        for n in range(WRITES):  # alternately, because the speed of the machine varies
            one.node.set("k", (time.perf_counter_ns(), n, "x" * (SIZE - 30)))
            time.sleep(0.001)
            raw.xadd("raw", {"t": time.perf_counter_ns(), "v": b"x" * SIZE})
            time.sleep(0.001)
        time.sleep(0.3)
        ours, plain = ([took / 1e9 for took in worker.do("result = took")] for worker in (reader, raw_reader))
    ratio = statistics.median(ours) / statistics.median(plain)
    row(
        "write to another server's table, p50 / p99 (vs. XADD to XREAD)",
        f"{quantiles(ours)} ({ratio:.1f}x)",
        quantiles(plain),
    )


def screens(url: str) -> None:
    here, there, polled = measure(url, SCREENS)
    row("write to a browser of the same server, p50 / p99", quantiles(here))
    row(
        f"write to a browser of another server (vs. a run every {POLL:g} s), p50 / p99",
        quantiles(there),
        quantiles(polled),
    )


def used(raw: Any) -> tuple[float, float]:
    """Return the CPU seconds of the engine's main thread, and the bytes that it has sent."""
    info = raw.info()
    return info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"], info["total_net_output_bytes"]


def engine_work(url: str) -> None:
    """Measure the CPU time of the engine for a write, and for each server that follows. Writes are sent one by one."""
    value = "x" * (SIZE - 10)

    def work(act: Callable[[int], object]) -> tuple[float, float]:
        before = used(raw)
        for n in range(WRITES):
            act(n)
            time.sleep(0.001)
        after = used(raw)
        return (after[0] - before[0]) / WRITES, (after[1] - before[1]) / WRITES

    with client(url) as raw, Peer(url, namespace="bench-work") as one, ExitStack() as stack:
        plain, _ = work(lambda n: raw.set("k", f"{value}{n:09}"))
        alone, sent_alone = work(lambda n: one.node.set("k", f"{value}{n:09}"))
        stack.enter_context(workers(url, FOLLOWERS, "bench-work"))
        followed, sent = work(lambda n: one.node.set("k", f"{value}{n:09}"))
        few, _ = work(lambda _: raw.xread({"fss:{bench-work}:log": "0"}, count=1))
        many, _ = work(lambda _: raw.xread({"fss:{bench-work}:log": "0"}, count=101))
    delivery = (followed - alone) / FOLLOWERS
    row("Redis server's CPU time for a write", f"{1e6 * (alone - delivery):.0f} µs", f"{1e6 * plain:.0f} µs")
    row("Redis server's CPU time to notify one server", f"{1e6 * delivery:.0f} µs")
    row("the same for one more change in the same message", f"{1e6 * (many - few) / 100:.1f} µs")
    row("bytes to notify one server", f"{(sent - sent_alone) / FOLLOWERS:.0f}")


def increments(url: str) -> None:
    for count in (1, 2, 4):
        rates = []
        for setup, increment in (("", "node.increment('n', 1, 0)"), (RAW_CLIENT.format(url=url), "client.incr('n')")):
            with workers(url, count) as started:
                for worker in started:
                    worker.do(setup)
                    worker.ask(INCREMENTS.format(seconds=SECONDS, increment=increment))
                rates.append(f"{sum(worker.answer() for worker in started) / SECONDS:,.0f}")
        row(f"increments/s of {count} process{'es' * (count > 1)}, one key", *rates)


def resyncs(most: int) -> None:
    keys = 1000
    while keys <= most:
        with engine(fsync="everysec") as server, Peer(server.url, namespace="bench") as one:
            for start in range(0, keys, 500):
                one.node.commit({f"key {n}": "x" * SIZE for n in range(start, start + 500)})
            with client(server.url) as raw:
                start_, idle = time.perf_counter(), used(raw)
                with Peer(server.url, namespace="bench") as other:
                    everything, busy = time.perf_counter() - start_, used(raw)
                    assert len(other.values) == keys
                nothing = min(timed(3, lambda _: other.node.follower._try_to_resynchronise()))  # its thread has ended
                nothing_work = (used(raw)[0] - busy[0]) / 3
                asked = min(timed(3, lambda _: raw.hgetall("fss:{bench}:d")))
        row(
            f"resync of {keys:,} keys: all fetched / none differs (vs. HGETALL)",
            f"{1000 * everything:.0f} / {1000 * nothing:.0f} ms",
            f"{1000 * asked:.0f} ms",
        )
        row("Redis server's CPU time for that", f"{1000 * (busy[0] - idle[0]):.0f} / {1000 * nothing_work:.0f} ms")
        keys *= 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["redis", "valkey"], default="redis")
    parser.add_argument("--keys", type=int, default=100_000, help="largest number of keys of a resync")
    options = parser.parse_args()
    print("| figure | fastserverstate | redis-py, querying Redis |\n|---|--:|--:|")
    with engine(kind=options.kind, fsync="everysec") as server:
        reads(server.url)
        writes(server.url)
        propagation(server.url)
        screens(server.url)
        engine_work(server.url)
        increments(server.url)
    resyncs(options.keys)


if __name__ == "__main__":
    main()
