"""Scripts transfer money between accounts and are interrupted anywhere. The total never changes."""

from __future__ import annotations

import random
import sys
from contextlib import suppress

import pytest
from linearizability.subject import Subject
from unit.helpers import ThreadSet, run_script

from fastserverstate.errors import DeadlockError

pytestmark = pytest.mark.usefixtures("many_switches")

ACCOUNTS = ("a", "b", "c", "d")
EACH = 100
TOTAL = EACH * len(ACCOUNTS)


class StopException(BaseException):
    """The user has clicked or left the page. Like Streamlit's, it is not an ``Exception``."""


class RerunException(BaseException):
    """The script has requested a rerun."""


INTERRUPTIONS = [StopException, RerunException, ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit]


class Script:
    """Transfers money and may be interrupted at each `check`."""

    def __init__(self, bank: Subject, seed: int) -> None:
        self.bank = bank
        self.chance = random.Random(seed)
        self.interrupted = 0

    def check(self) -> None:
        if self.chance.random() < 0.06:
            self.interrupted += 1
            raise self.chance.choice(INTERRUPTIONS)

    def move(self) -> None:
        """Read both accounts, then write both."""
        state = self.bank.state
        source, target = self.chance.sample(ACCOUNTS, 2)
        amount = self.chance.randrange(10)
        self.check()
        left = state[source] - amount
        self.check()
        more = state[target] + amount
        self.check()
        state[source] = left
        self.check()
        if self.chance.random() < 0.1:
            del state[target]  # the account is missing for a moment
            self.check()
        state[target] = more
        self.check()

    def in_transaction(self) -> None:
        self.check()
        with self.bank.transaction(*ACCOUNTS):
            self.move()
        self.check()

    def in_undeclared_transaction(self) -> None:
        """Lock accounts at their first use, which may raise DeadlockError."""
        one, other = self.chance.sample(ACCOUNTS, 2)
        with self.bank.transaction(one):
            self.check()
            self.bank.state[one] -= 1
            self.check()
            self.bank.atomic.increment(other)
            self.check()

    def in_nested_transaction(self) -> None:
        """Continue after an interruption of the inner transaction, which has no effect."""
        with self.bank.transaction(*ACCOUNTS):
            try:
                with self.bank.transaction(*ACCOUNTS[:2]):
                    self.move()
            except tuple(INTERRUPTIONS):
                self.check()
            self.move()

    def in_locks(self) -> None:
        """The locks are released. The transaction makes the writes atomic."""
        accounts = self.chance.sample(ACCOUNTS, 4)
        with self.bank.locks[tuple(accounts)]:
            self.check()
            with self.bank.transaction():
                self.move()
            self.check()

    def in_locks_alone(self) -> None:
        """Not interrupted between the two writes."""
        one, other = self.chance.sample(ACCOUNTS, 2)
        state = self.bank.state
        with self.bank.locks[one, other]:
            self.check()
            state[one] -= 1
            state[other] += 1
            self.check()

    def run(self) -> None:
        step = self.chance.choice(
            [
                self.in_transaction,
                self.in_undeclared_transaction,
                self.in_nested_transaction,
                self.in_locks,
                self.in_locks_alone,
            ]
        )
        with suppress(*INTERRUPTIONS, DeadlockError):
            step()


@pytest.fixture
def bank():
    bank = Subject()
    bank.state.update(dict.fromkeys(ACCOUNTS, EACH))
    return bank


def total(bank):
    return sum(bank.state[account] for account in ACCOUNTS)


def test_total_is_constant_despite_interruptions(bank):
    scripts = [Script(bank, seed) for seed in range(4)]
    ended = []
    looked = []

    def write(script):
        for _ in range(2_000):
            script.run()
        ended.append(script)

    def read(block):
        looks = 0
        while len(ended) < len(scripts):
            with suppress(DeadlockError), block():
                assert total(bank) == TOTAL
                looks += 1
        looked.append(looks)

    with ThreadSet() as threads:
        for script in scripts:
            threads.add(write, script)
        threads.add(read, lambda: bank.transaction(*ACCOUNTS))
        threads.add(read, lambda: bank.locks[ACCOUNTS[::-1]])
    assert total(bank) == TOTAL
    assert all(script.interrupted > 200 for script in scripts)
    assert min(looked) > 100
    assert not any(bank.locks[account].locked() for account in ACCOUNTS)


def test_total_changes_without_transactions(bank):
    """Otherwise, the test above would show nothing."""
    script = Script(bank, 1)
    while not script.interrupted or sum(bank.state.values()) == TOTAL:
        with suppress(*INTERRUPTIONS):
            script.move()


SIGNALS = """
    import random
    from linearizability.subject import Subject

    ACCOUNTS = ("a", "b", "c", "d")
    bank = Subject()
    bank.state.update(dict.fromkeys(ACCOUNTS, 100))
    chance = random.Random(1)

    class StopException(BaseException):
        pass

    def handle(*_):
        if armed:
            raise StopException

    def move():
        one, other = chance.sample(ACCOUNTS, 2)
        bank.state[one] -= 1
        bank.state[other] += 1

    def move_in_transaction():
        with bank.transaction(*ACCOUNTS):
            move()

    def move_in_nested_transaction():
        with bank.transaction("a"):
            with bank.transaction(*ACCOUNTS):
                move()

    def take_a_lock():
        with bank.locks["a"]:
            pass

    def take_locks():
        with bank.locks["b", "a", "c"]:
            pass

    def compete():
        while not over:
            with bank.transaction(*ACCOUNTS):
                move()
                assert sum(bank.state[account] for account in ACCOUNTS) == 400

    over = armed = False
    competitor = threading.Thread(target=compete)
    if COMPETES:
        competitor.start()
    signal.signal(signal.SIGALRM, handle)
    for work in (move_in_transaction, move_in_nested_transaction, take_a_lock, take_locks):
        interrupted = 0
        end = time.monotonic() + 0.4
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        while time.monotonic() < end:
            try:
                armed = True
                for _ in range(1_000):
                    work()
                armed = False
            except StopException:
                armed = False
                interrupted += 1
                held = [account for account in ACCOUNTS if bank.locks[account]._is_owned()]
                if held:
                    print(work.__name__, "still holds", held)
                    os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert interrupted > 20, interrupted
        with bank.transaction(*ACCOUNTS):
            assert sum(bank.state[account] for account in ACCOUNTS) == 400
    over = True
    if COMPETES:
        competitor.join()
    print("kept")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer signals")
@pytest.mark.parametrize("competes", [False, True], ids=["alone", "among others"])
def test_total_is_constant_despite_signals(competes):
    """The handler may raise after any instruction of the main thread, and while it waits for a lock."""
    assert run_script(SIGNALS.replace("COMPETES", str(competes)), package=True) == "kept\n"
