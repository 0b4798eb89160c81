"""Count the processor instructions of operations, a measure without noise.

    python bench/instructions.py            count, and write the counts to instructions.json
    python bench/instructions.py --check    count, and fail if a count has risen since then

The counting is done by valgrind's callgrind, in an interpreter of its own. Its thread has a real script context, which
the real bridge resolves to a subscribed session; a server, which takes no part in an access, would only be slow there.
It counts a function that has the statement two hundred times, and one that has it a hundred times: the difference is
the cost of exactly a hundred operations.

Counts depend on the interpreter and the compiler, so there is an entry for each pair of them. Another build of the
same interpreter shows in the dict's own counts. There both the counts and their ratios are compared, and with a wider
margin: the same code was seen to take 5 % more or 12 % fewer instructions, at ratios up to 22 % higher. For another
release of Python nothing is compared: ratios differ by 30 % between 3.11 and 3.12.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from crowd import Crowd
from rows import ROWS, UNROLLED, Typed, unrolled_ours, unrolled_plain
from streamlit.runtime.scriptrunner import ScriptRunContext, add_script_run_ctx

import fastserverstate
from fastserverstate import _core, _instances
from fastserverstate._streamlit.names import ATTRIBUTE
from fastserverstate.rerun.session import LiveSession

TABLE = Path(__file__).with_name("instructions.json")
RISE = 0.05
OTHER_BUILD_RISE = 0.15
SAME_BUILD = 0.03  # allowed difference of the dict's counts between processes of one build of the interpreter

SCOPES = 10_000
TO_MANY = f"increment, {SCOPES:,} subscribers"  # for all of them together
OWN_KEYS = 10_000
OWN = f"read and write of each of {OWN_KEYS:,} keys, in a run that shows none"  # for one of them
WARM_UP = 50  # after some calls, the interpreter specializes instructions

PROBE = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void dump(const char *label) { CALLGRIND_DUMP_STATS_AT(label); }
"""

Counts = dict[str, dict[str, float]]  # operation -> "ours" and "plain" -> instructions


# In valgrind


def enter_script_run() -> LiveSession:
    """Give this thread the script context of a running session."""

    class Runner:
        _script_thread = threading.current_thread()

        def enqueue(self, message: object) -> None: ...

    runner = Runner()
    values: dict[str, Any] = dict.fromkeys(
        field.name
        for field in dataclasses.fields(ScriptRunContext)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    values.update(session_id="counted", _enqueue=runner.enqueue, pages_manager=SimpleNamespace(main_script_hash=""))
    context = ScriptRunContext(**values)
    session = LiveSession(_instances.store, SimpleNamespace())
    session.run_started(runner)
    setattr(context, ATTRIBUTE, session)
    setattr(runner, ATTRIBUTE, True)
    context.on_script_start()
    add_script_run_ctx(threading.current_thread(), context)

    fastserverstate.server_state["k"]
    writer = threading.Thread(target=fastserverstate.server_state.__setitem__, args=("k", 1))
    writer.start()
    writer.join()
    if [scope.session for scope in _instances.store.collect_stale()] != [session]:
        sys.exit("The session is not subscribed: this would count something else.")
    session.finish_run()
    session.run_started(runner)
    return session


def count_here(library: str) -> None:
    """Dump the counts of callgrind for each of several calls."""
    probe = ctypes.PyDLL(library)
    state = fastserverstate.server_state

    def count_call(label: str, function: Callable[[], object]) -> None:
        # Setting the counters to zero instead would leave out the callers.
        probe.dump(b"")
        function()
        probe.dump(label.encode())

    # Without an event loop, the scheduler would collect the stale scopes itself.
    _instances.store.on_stale(None)
    state["k"] = state["unread"] = state["hot"] = state["still"] = 0
    fastserverstate.space("room").still = Typed().still = 0
    session = enter_script_run()
    functions: dict[str, Callable[[], object]] = {}
    for operation, row in ROWS.items():
        for times in (UNROLLED, 2 * UNROLLED):
            functions[f"{operation}/ours/{times}"] = unrolled_ours(row.ours, times=times)
            functions[f"{operation}/plain/{times}"] = unrolled_plain(row, times=times)

    def increment_hot() -> None:
        state["hot"] += 1

    own = [f"own {number}" for number in range(OWN_KEYS)]

    def increment_own() -> None:
        for key in own:
            state[key] += 1

    crowd = Crowd(SCOPES)
    gc.disable()
    for function in (*functions.values(), increment_hot):
        for _ in range(WARM_UP):
            function()
    probe.start()
    for _ in range(WARM_UP):
        count_call("", lambda: None)
    count_call("nothing", lambda: None)
    for name, function in functions.items():
        count_call(name, function)
    state.update(dict.fromkeys(own, 0))  # only now, because they lengthen chains
    session.start_run()
    count_call("own", increment_own)
    crowd.read("hot")
    state["hot"]
    count_call("to many", increment_hot)
    if len(_instances.store.collect_stale()) != SCOPES:
        sys.exit("The write did not mark every subscriber.")


# Outside of valgrind


def count() -> Counts:
    """Run this file under valgrind and read its dumps."""
    if shutil.which("valgrind") is None:
        sys.exit("Counting instructions takes valgrind and its headers: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as folder:
        source, library, dumps = (Path(folder, name) for name in ("probe.c", "probe.so", "dump"))
        source.write_text(PROBE)
        compiler = (sysconfig.get_config_var("CC") or "cc").split()
        subprocess.run([*compiler, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
        valgrind = ["valgrind", "--quiet", "--vgdb=no", "--tool=callgrind", "--instr-atstart=no"]
        # A fixed hash seed and early binding make all processes equal.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"}
        command = [*valgrind, f"--callgrind-out-file={dumps}", sys.executable, __file__, "--count-here", str(library)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        totals = dict(read_dump(path.read_text()) for path in Path(folder).glob("dump.*"))
    counts: Counts = {}
    for operation, row in ROWS.items():
        counts[operation] = {}
        for side in ("ours", "plain"):
            one, two = (totals[f"{operation}/{side}/{times}"] for times in (UNROLLED, 2 * UNROLLED))
            counts[operation][side] = round((two - one) / UNROLLED / row.operations, 1)
    counts[OWN] = {"ours": round((totals["own"] - totals["nothing"]) / OWN_KEYS, 1)}
    counts[TO_MANY] = {"ours": float(totals["to many"] - totals["nothing"])}
    return counts


def read_dump(text: str) -> tuple[str, int]:
    """Return the label of a dump and its count."""
    label = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^summary: (\d+)", text, re.MULTILINE)
    return (label[1] if label else "", int(total[1]) if total else 0)


def build() -> str:
    """Return what the counts depend on: the interpreter, the compiler of the extension, the machine."""
    version = ".".join(platform.python_version_tuple()[:2])
    free_threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    # Compilers write their name into object files. Clang may use start-up files of GCC.
    signs = re.findall(rb"(clang version|GCC: \([^)]*\)) (\d+)", Path(_core.__file__).read_bytes())
    name, major = max(signs, default=(b"unknown", b""))
    compiler = f"{'clang' if name.startswith(b'clang') else 'gcc'} {major.decode()}" if signs else "unknown compiler"
    return f"CPython {version}{free_threaded}, {compiler}, {platform.machine()}"


def show(counts: Counts) -> None:
    print("| operation | instructions, fastserverstate | compared with | ratio |")
    print("|---|--:|--:|--:|")
    for operation, sides in counts.items():
        plain = f"{sides['plain']:,.0f} | {ratio(sides):.2f}x" if "plain" in sides else " | "
        print(f"| {operation} | {sides['ours']:,.0f} | {plain} |")


def ratio(sides: dict[str, float]) -> float:
    return sides["ours"] / sides["plain"]


def compare(counts: Counts, table: dict[str, Counts]) -> list[str]:
    """Print the entry with which the counts are compared. Return a sentence for each count that has risen."""
    here = build()
    interpreter, _, machine = here.split(", ")
    alike = [known for known in table if known.startswith(f"{interpreter}, ") and known.endswith(f", {machine}")]
    if not alike:
        print(f"No counts are known for {interpreter} on {machine}: nothing was compared.")
        return []
    entry = here if here in alike else alike[0]
    both = {name: (counts[name], table[entry][name]) for name in counts if name in table[entry]}
    with_plain = {name: pair for name, pair in both.items() if "plain" in pair[0]}
    of_dict = [pair for name, pair in with_plain.items() if ROWS[name].is_dict]
    if entry == here and all(abs(now["plain"] / then["plain"] - 1) <= SAME_BUILD for now, then in of_dict):
        print(f"Compared with the counts for {here}; {RISE:.0%} more will do.")
        return [
            f"{name}: {now['ours']:,.1f} instead of {then['ours']:,.1f}, {now['ours'] / then['ours'] - 1:+.0%}"
            for name, (now, then) in both.items()
            if now["ours"] > then["ours"] * (1 + RISE)
        ]
    print(f"No counts are known for this build of {here}. Counts and ratios are compared with those for another build")
    print(f"({entry}); {OTHER_BUILD_RISE:.0%} more will do for either.")
    # A better optimized interpreter has a cheaper dict and a higher ratio, a worse one has higher counts.
    return [
        f"{name}: {ratio(now):.2f}x instead of {ratio(then):.2f}x"
        for name, (now, then) in with_plain.items()
        if ratio(now) > ratio(then) * (1 + OTHER_BUILD_RISE) and now["ours"] > then["ours"] * (1 + OTHER_BUILD_RISE)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the processor instructions of an operation.")
    parser.add_argument("--check", action="store_true", help="compare with instructions.json instead of rewriting it")
    parser.add_argument("--count-here", metavar="LIBRARY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count_here:
        count_here(arguments.count_here)
        return
    counts = count()
    show(counts)
    table: dict[str, Counts] = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if arguments.check:
        risen = compare(counts, table)
        if risen:
            sys.exit("Risen: " + "; ".join(risen))
    else:
        table[build()] = counts
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
