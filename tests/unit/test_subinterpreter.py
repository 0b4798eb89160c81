"""The package works only in the main interpreter. Importing it in a subinterpreter raises an error without harm.

Each test has a process of its own, because a failure may end the process or block it forever.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from harness.interpreter import run_python

pytestmark = pytest.mark.skipif(
    not any(map(find_spec, ("_interpreters", "_xxsubinterpreters"))), reason="there are no subinterpreters here"
)

PRELUDE = """
import faulthandler, sys, threading
faulthandler.dump_traceback_later(60, exit=True)

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def create(isolated):
    if hasattr(interpreters, "new_config"):
        return interpreters.create("isolated" if isolated else "legacy")
    return interpreters.create(isolated=isolated)

def refused(isolated):
    # Twice each, in two subinterpreters: the second attempt must not find what the first has left.
    for _ in range(2):
        interpreter = create(isolated)
        error = interpreters.run_string(interpreter, ATTEMPTS)
        assert error is None, error
        interpreters.destroy(interpreter)

ATTEMPTS = '''
import sys
for name in ["fastserverstate", "fastserverstate._core", "fastserverstate.state"] * 2:
    try:
        __import__(name)
    except ImportError as error:
        message = str(error).lower()
        assert "fastserverstate" in message and "subinterpreter" in message, message
        assert "main interpreter" in message, message  # where it can be used
    else:
        raise AssertionError("imported")
    assert "streamlit" not in sys.modules, "much was loaded for nothing"
print("refused", flush=True)
'''

class Context:
    part = None

def use(value):
    from fastserverstate import _core, _instances, server_state, server_state_lock
    with server_state_lock["k"]:
        server_state["k"] = value
    assert server_state.k == value and list(server_state) == ["k"]
    session = _core.Session(_instances.store)
    _core.locate_scopes("scope", None, "part", lambda context, part: (session, session.scope(part), _core.RUN_CURRENT))
    threading.current_thread().scope = context = Context()
    session.start_run()
    server_state["k"]
    threading.current_thread().scope = None
    server_state["k"] = [value]
    assert session.stale_fragment_ids() == [None]
    session.close()
    server_state["k"] = value
"""


def run(source: str) -> str:
    return run_python(PRELUDE, source, "-W", "error")


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "sharing the GIL"])
def test_refused_after_the_main_interpreter_has_it(isolated):
    output = run(
        f"""
        use(1)
        refused({isolated})
        from fastserverstate import server_state
        assert dict(server_state) == {{"k": 1}}
        use(2)
        """
    )
    assert output == "refused\n" * 2


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "sharing the GIL"])
def test_main_interpreter_goes_on_meanwhile(isolated):
    output = run(
        f"""
        from fastserverstate import server_state, server_state_lock
        stop = False

        def count():
            while not stop:
                with server_state_lock["n"]:
                    server_state["n"] = server_state.get("n", 0) + 1
                    counts.append(1)

        counts = []
        threads = [threading.Thread(target=count) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                refused({isolated})
        finally:
            stop = True
            for thread in threads:
                thread.join()
        assert server_state["n"] == len(counts) > 0
        """
    )
    assert output == "refused\n" * 4


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "sharing the GIL"])
def test_refused_before_the_main_interpreter_has_it(isolated):
    output = run(
        f"""
        refused({isolated})
        use(1)
        refused({isolated})
        """
    )
    assert output == "refused\n" * 4
