"""Signal handlers that run, or raise, while the main thread waits for a lock."""

from __future__ import annotations

import pytest
from unit.helpers import needs_timer, run_script


@needs_timer
def test_handler_takes_a_contended_lock():
    """The handler interrupts the main thread's waits, waits for the same lock, and gets it."""
    run_script(
        """
        lock = store.lock("k")
        inside = []
        stop = False
        counts = dict.fromkeys(["main", "handler", "one", "two"], 0)

        def count(name):
            with lock:
                me = threading.get_ident()
                assert set(inside) <= {me}, "two threads are inside"
                inside.append(me)
                state["k"] = (name, counts[name])
                assert state["k"][0] == name or name == "main"  # which the handler may interrupt
                with lock:
                    state[name] = state.get(name, 0) + 1
                counts[name] += 1
                inside.pop()

        def contend(name):
            while not stop:
                count(name)
                with lock:
                    time.sleep(0.001)  # so that the lock is handed over to some waiters
                state.get("k"), "k" in state, store.peek("k")

        def handle(*_):
            global handling
            if not handling:
                handling = True
                count("handler")
                state["from the handler"] = state.get("k")
                with store.lock("another"):
                    state.pop("another", None)
                handling = False

        handling = False
        sys.setswitchinterval(1e-4)
        signal.signal(signal.SIGALRM, handle)
        threads = [threading.Thread(target=contend, args=(name,), daemon=True) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while min(counts.values()) < 150:
            count("main")
            state["k"] = "main", 0
            state.get("k"), "k" in state
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop = True
        for thread in threads:
            thread.join()
        assert {name: state[name] for name in counts} == counts
        assert not lock.locked() and not inside
        assert store.statistics()["keys"] == len(store.keys()) == 6
        """
    )


@needs_timer
def test_handler_waits_for_a_thread_queued_behind():
    """The main thread is first in the queue, but its handler waits for a later thread, which gets the lock first."""
    run_script(
        """
        first, second = store.lock("first"), store.lock("second")
        held, queued, let_go = threading.Event(), threading.Event(), threading.Event()
        handled = []

        def hold():
            with first:
                held.set()
                let_go.wait()

        def take_both():
            with second:
                queued.set()
                with first:
                    pass

        def handle(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            threading.Thread(target=take_both, daemon=True).start()
            queued.wait()
            time.sleep(0.02)  # until it waits
            let_go.set()
            with second:
                handled.append(1)

        signal.signal(signal.SIGALRM, handle)
        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        held.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        with first:
            assert handled
        holder.join()
        assert not first.locked() and not second.locked()
        """
    )


INTERRUPTED = {
    "with": "with lock: inside()",
    "acquire": "lock.acquire(); inside()",
    "acquire with a timeout": "lock.acquire(timeout=60); inside()",
    "read": "state['k']",
    "attribute": "state.k",
    "in": "'k' in state",
    "write": "state['k'] = round",
    "setdefault": "state.setdefault('k', round)",
    "pop": "state.pop('k', None)",
    "touch": "store.touch('k') if 'k' in state else None",
}


@needs_timer
@pytest.mark.parametrize("use", INTERRUPTED.values(), ids=INTERRUPTED)
def test_interrupted_waits_leave_the_lock_usable(use):
    """The handler raises at any moment of the wait. Other threads continue to get the lock."""
    run_script(
        f"""
        import random

        def inside():
            global within
            assert within is None and lock._is_owned()
            within = threading.get_ident()
            state["k"] = within
            assert state["k"] == within
            within = None

        def contend():
            while not stop:
                with lock:
                    inside()
                    progress[threading.get_ident()] += 1
                    time.sleep(0.0003)  # so that other threads wait
                state.setdefault("k", 0)

        def handle(*_):
            global armed
            if armed:
                armed = False
                if choose.random() < 0.3:
                    time.sleep(0.005)  # long enough for a handover
                raise KeyboardInterrupt

        from collections import Counter
        choose = random.Random(3)
        lock = store.lock("k")
        condition = threading.Condition(lock)
        within, armed, stop = None, False, False
        done = interrupted = 0
        progress = Counter()
        state["k"] = 0
        session = _core.Session(store)
        signal.signal(signal.SIGALRM, handle)
        threads = [threading.Thread(target=contend, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        round = 0
        while min(done, interrupted) < 25:
            round += 1
            session.start_run()
            enter(session)
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.00001, 0.004 if round % 2 else 0.0005))
                {use}
                armed = False
                done += 1
            except KeyboardInterrupt:
                interrupted += 1
                if within == threading.get_ident():
                    within = None
            while lock._is_owned():
                lock.release()
            session.finish_run()
            leave()
            if round % 10 == 0:  # no waiter was lost
                before = dict(progress)
                assert lock.acquire(timeout=20)
                lock.release()
                while any(progress[name] == count for name, count in before.items()):
                    time.sleep(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop = True
        for thread in threads:
            thread.join()
        assert not lock.locked() and lock.acquire(blocking=False)
        state["k"] = "last"
        session.close()
        assert store.statistics()["keys"] == len(store.keys()) == 1
        assert store.statistics()["scopes"] == 0
        """
    )


@needs_timer
def test_interrupted_waiter_forwards_its_wakeup():
    """The lock is released while the handler runs. The threads behind it get no second wakeup."""
    run_script(
        """
        lock = store.lock("k")

        def hold():
            with lock:
                held.set()
                let_go.wait()

        def inherit():
            with lock:
                got.append(1)

        def handle(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            for heir in heirs:
                heir.start()
            time.sleep(0.0002)  # until they wait
            let_go.set()
            time.sleep(0.0003)  # until the main thread got its wakeup, or the lock
            raise KeyboardInterrupt

        sys.setswitchinterval(1e-4)
        signal.signal(signal.SIGALRM, handle)
        for round in range(150):
            held, let_go, got = threading.Event(), threading.Event(), []
            holder = threading.Thread(target=hold, daemon=True)
            heirs = [threading.Thread(target=inherit, daemon=True) for _ in range(2)]
            holder.start()
            held.wait()
            try:
                # Repeat it: a signal that arrives just before the wait does not interrupt it.
                signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.05)
                lock.acquire()
                raise AssertionError("acquired")
            except KeyboardInterrupt:
                pass
            assert not lock._is_owned()
            for thread in (holder, *heirs):
                thread.join(10)
                assert not thread.is_alive(), ("lost", round)
            assert got == [1, 1] and not lock.locked()
        """
    )
