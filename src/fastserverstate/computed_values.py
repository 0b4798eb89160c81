"""`computed`: values that are derived from shared state, and evaluated once for all sessions."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from fastserverstate._core import Failure, KeyLocks, Memo, Namespace, Node, Store, absent, use_vectorcall
from fastserverstate.change import content_fingerprint
from fastserverstate.definitions import Call, Definition, Registry
from fastserverstate.errors import DeadlockError, FastServerStateError, WouldBlockError
from fastserverstate.functions import check_function, name_of, refuse_coroutine
from fastserverstate.updates import MISSING
from fastserverstate.workers import Workers

logger = logging.getLogger("fastserverstate")

# How often an evaluation that has read values of different moments is repeated, and how often without locks.
MAX_EVALUATIONS = 10
FREE_EVALUATIONS = 3

# Errors that say nothing about the values. They are raised, and the function is called again the next time.
_PASSING = (DeadlockError, WouldBlockError)
RETRY = 0.1  # seconds until a worker tries again after one of them

# Calls a function where it cannot create elements, and a second function with the name of what it has used.
Isolate = Callable[[Callable[[], Any], Callable[[str], NoReturn]], Any]

P = ParamSpec("P")
R = TypeVar("R")


class Dependent(Node):
    """The function of one computed value with its arguments: what it has read, and the key of its result."""

    def __init__(self, store: Store, definition: Definition, call: Call, isolate: Isolate) -> None:
        super().__init__(store, call.new_key())
        self._results = store
        self._isolate = isolate
        self.definition = definition
        self.call = call
        self.pins = 0  # waits and callbacks that need the result
        self.queued = False  # for a worker
        self.is_discarded = False
        self.fingerprint: bytes | None = None  # of the result

    def __repr__(self) -> str:
        return self.call.label

    def refuse_write(self) -> None:
        raise FastServerStateError(
            f"The computed value {self!r} has tried to change shared state. It is evaluated whenever its value is "
            "needed, so it may only read. Change shared state in a callback, or with on_change."
        )

    def refuse(self, what: str) -> NoReturn:
        raise FastServerStateError(
            f"The computed value {self!r} has used {what}. It is evaluated once for all sessions, so it cannot create "
            "elements or use the session. Return the data, show it where you read the value, and pass what differs "
            "between sessions as an argument."
        )

    def compute(self) -> Any:
        """Return the result."""
        result = self._isolate(lambda: self.definition.function(*self.call.args, **self.call.kwargs), self.refuse)
        refuse_coroutine(result, f"The computed value {self!r}")
        return result

    def is_needed(self) -> bool:
        """Whether the result is needed for something that the store does not know of."""
        return self.pins > 0

    def keep(self, result: Any) -> tuple[bool, list[str]]:
        """Store the result if its content differs. Return whether it does, and the keys with pending callbacks."""
        before, old = self.fingerprint, self._results.peek(self.key, absent)
        self.fingerprint = None if isinstance(result, Failure) else content_fingerprint(result)
        if isinstance(old, Failure) and isinstance(result, Failure):
            is_same = repr(old.exception) == repr(result.exception)
        else:
            is_same = old is not absent and before is not None and before == self.fingerprint
        return not is_same, [] if is_same else self._results.apply([(self.key, result, False)])[1]

    def discard(self) -> bool:
        """Drop the result and end all subscriptions, unless a thread evaluates the node."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            self.is_discarded = True
            self._results.apply([(self.key, absent, False)])  # results that were made of it are outdated
            self.close()
        finally:
            self.lock.release()
        return True

    def schedule(self, evaluate: Callable[[], None], workers: Workers) -> None:
        """Have a worker evaluate."""
        workers.submit(evaluate, repr(self))

    def changed(self) -> None:
        """Called after another result was stored, with nothing locked."""


class _Evaluation:
    """A call of a computed value's function in progress."""

    def __init__(self, node: Dependent) -> None:
        self.node = node
        self.sources: list[Node] = []


class _Thread(threading.local):
    def __init__(self) -> None:
        self.evaluations: list[_Evaluation] = []
        self.changed: list[Dependent] = []


class Evaluator:
    """Evaluates the computed values of a store.

    A result that is read is brought up to date by the reading thread. Results that sessions, callbacks or waiting
    threads depend on are brought up to date by workers when what they have read changes.

    Thread-safety
        Safe from any thread.
    """

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self.call_back: Callable[[list[str]], None] = store.flush  # makes the pending callbacks of keys
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        self._thread = _Thread()
        self._pinning = threading.RLock()

    def is_evaluating(self) -> bool:
        """Whether the calling thread is evaluating a result."""
        return bool(self._thread.evaluations)

    def note_source(self, node: Dependent) -> None:
        """The function that the thread evaluates reads the result of this node."""
        if self._thread.evaluations:
            self._thread.evaluations[-1].sources.append(node)

    def refresh(self, node: Dependent, timeout: float = -1) -> bool:
        """Bring the result up to date, unless another thread does so and takes longer than `timeout` seconds."""
        if node.is_current():
            return True
        self._refuse_cycle(node)
        try:
            if self._has_current_sources(node):
                return True
            if not self._acquire(node, timeout):
                return False
            try:
                if not node.is_discarded and not self._has_current_sources(node):
                    self._evaluate(node)
            finally:
                node.lock.release()
        finally:
            self._report_changes()
        return True

    def _acquire(self, node: Dependent, timeout: float) -> bool:
        try:
            return node.lock.acquire(timeout=timeout)
        except DeadlockError as deadlock:
            chain = self._thread.evaluations
            if not chain:
                raise
            raise DeadlockError(
                f"{chain[-1].node!r} and {node!r} wait for each other's result, or for a lock that is held: {deadlock}"
            ) from deadlock

    def _refuse_cycle(self, node: Dependent) -> None:
        chain = [evaluation.node for evaluation in self._thread.evaluations]
        if node in chain:
            circle = [*chain[chain.index(node) :], node]
            raise FastServerStateError(
                f"Computed values depend on each other: {' -> '.join(map(repr, circle))}. Remove one of the reads."
            )

    def _has_current_sources(self, node: Dependent) -> bool:
        """Whether the result is up to date once all results are that it was made of."""
        if not node.is_fresh():
            return False
        marks = node.marks()
        for source in node.sources:
            self.refresh(source)  # type: ignore[arg-type]
        if not node.is_fresh():
            return False
        node.sources_checked(marks)
        return True

    def is_outdated(self, node: Any) -> bool:
        """Whether something has changed that the node has read, maybe through other results."""
        return not node.is_fresh() or any(map(self.is_outdated, node.sources))

    def _evaluate(self, node: Dependent) -> None:
        """Call the function and store its result. The node is locked."""
        result, sources = self._run(node)
        for attempt in range(MAX_EVALUATIONS):
            if not node.mixed:
                break
            # A thread keeps changing what the function reads. First try again, then have the thread wait.
            keys = _keys_behind(node, sources) if attempt >= FREE_EVALUATIONS else ()
            with KeyLocks(self._store, keys) if keys else contextlib.nullcontext():
                result, sources = self._run(node)
        is_changed, due = node.keep(result)
        if is_changed:
            self._thread.changed.append(node)
        if due:
            self.call_back(due)
        node.completed(sources)

    def _run(self, node: Dependent) -> tuple[Any, list[Node]]:
        chain = self._thread.evaluations
        evaluation = _Evaluation(node)
        chain.append(evaluation)
        result: Any
        try:
            result = node.execute(node.compute)
        except _PASSING:
            raise
        except Exception as error:
            result = Failure(error)
        finally:
            chain.pop()
        return result, evaluation.sources

    def _report_changes(self) -> None:
        if self._thread.evaluations:
            return
        changed, self._thread.changed = self._thread.changed, []
        if changed:
            self._store.flush()
        for node in changed:
            node.changed()

    def collected(self, nodes: Iterable[Any]) -> None:
        """These nodes have become stale. Workers evaluate those whose results are needed."""
        for node in nodes:
            if self.is_observed(node):
                self.request(node)

    def pin(self, node: Dependent, count: int) -> None:
        """Keep a result up to date, or (-1) do so no longer."""
        with self._pinning:
            node.pins += count

    def request(self, node: Dependent) -> None:
        """Have a worker bring the result up to date."""
        if not node.queued:
            node.queued = True
            node.schedule(functools.partial(self._work, node), self._workers)

    def _work(self, node: Dependent) -> None:
        node.queued = False
        if not self.is_observed(node):
            return  # its next reader evaluates it
        try:
            self.refresh(node)
        except _PASSING as error:
            logger.warning("%r is evaluated again in %g seconds: %s", node, RETRY, error)
            node.queued = True
            self._workers.submit_later(RETRY, functools.partial(self._work, node), repr(node))

    def is_observed(self, node: Any) -> bool:
        """Whether a session, a callback or a waiting thread depends on the result, maybe through other results."""
        if node.is_needed():
            return True
        found, nodes = self._store.observers(node.key)
        return found or any(self.is_observed(other) for other in nodes)


def value_of(result: Any) -> Any:
    """Return the value of a result, or raise the exception of its function."""
    if isinstance(result, Failure):
        raise result.exception.with_traceback(result.traceback)
    return result


def _keys_behind(node: Node, sources: Iterable[Node]) -> frozenset[str]:
    """The keys of shared state that a result was made of, directly or through other results."""
    keys = node.keys - {source.key for source in sources}
    return keys.union(*(_keys_behind(source, source.sources) for source in sources))


class Nodes:
    """The nodes of one function, by the content of its arguments.

    `max_entries` limits those that nothing depends on; the ones that were not used for longest are discarded.
    """

    def __init__(
        self,
        make: Callable[[Call], Dependent],
        max_entries: int | None,
        evaluator: Evaluator,
        discard: Callable[[Dependent], None] = lambda _: None,
    ) -> None:
        self._make = make
        self._max_entries = max_entries
        self._evaluator = evaluator
        self._discard = discard
        self._lock = threading.RLock()
        self._nodes: dict[bytes, Dependent] = {}

    def find_or_make(self, call: Call) -> Dependent:
        with self._lock:
            node = self._nodes.get(call.fingerprint)
            if node is None:
                if self._max_entries is not None and len(self._nodes) >= self._max_entries:
                    self._discard_oldest(len(self._nodes) - self._max_entries + 1 + self._max_entries // 10)
                node = self._nodes[call.fingerprint] = self._make(call)
        return node

    def _discard_oldest(self, count: int) -> None:
        for fingerprint, node in sorted(self._nodes.items(), key=lambda item: item[1].used):
            if count and not self._evaluator.is_observed(node) and node.discard():
                del self._nodes[fingerprint]
                self._discard(node)
                count -= 1

    def are_observed(self) -> bool:
        """Whether anything depends on a result."""
        return any(map(self._evaluator.is_observed, self))

    def clear(self) -> None:
        with self._lock:
            for fingerprint, node in list(self._nodes.items()):
                if node.discard():
                    del self._nodes[fingerprint]
                    self._discard(node)

    def reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        for node in self._nodes.values():
            self._discard(node)
        self._nodes = {}

    def __iter__(self) -> Iterator[Dependent]:
        with self._lock:
            return iter(list(self._nodes.values()))


class HasNodes:
    """What `definitions.Registry` needs of a decorated function with nodes."""

    _nodes: Nodes

    def is_observed(self) -> bool:
        """Return whether a session, a callback or a waiting thread depends on any of its results."""
        return self._nodes.are_observed()

    def clear(self) -> None:
        """Forget all results."""
        self._nodes.clear()

    def reset_after_fork(self) -> None:
        self._nodes.reset_after_fork()


class Computed(HasNodes, Memo, Generic[P, R]):
    """A function that `computed` has decorated. Call it to read its value.

    >>> from fastserverstate import Computed, computed, server_state
    >>> server_state["prices"] = [3, 4]
    >>> @computed
    ... def total() -> int:
    ...     return sum(server_state["prices"])
    >>> isinstance(total, Computed), total()
    (True, 7)
    >>> del server_state["prices"]
    """

    def __init__(
        self, store: Store, evaluator: Evaluator, function: Callable[P, R], max_entries: int | None, isolate: Isolate
    ) -> None:
        super().__init__(store)
        self._results = Namespace(store)
        self._evaluator = evaluator
        self.function = function
        self._nodes = Nodes(lambda call: Dependent(store, self, call, isolate), max_entries, evaluator, self.forget)
        functools.update_wrapper(self, function)

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def __repr__(self) -> str:
        return f"<computed value {name_of(self.function)}>"

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        if self.store.in_transaction():  # the result would depend on writes that others do not see
            return self.function(*args, **kwargs)
        result = MISSING
        while result is MISSING:  # the node is discarded meanwhile
            node = self.node(args, kwargs)
            self._evaluator.refresh(node)
            result = self._results.get(node.key, MISSING)
        self._evaluator.note_source(node)
        if self._evaluator.is_outdated(node):
            self._evaluator.collected([node])  # nothing has depended on it when it was
        value: R = value_of(result)
        return value

    def peek(self, node: Dependent) -> R:
        """Return the value, without subscribing to it."""
        self.refresh(node)
        value: R = value_of(self.store.peek(node.key))
        return value

    def refresh(self, node: Dependent) -> None:
        """Bring the result up to date."""
        self._evaluator.refresh(node)

    @contextlib.contextmanager
    def pinned(self, node: Dependent) -> Iterator[None]:
        """Keep the result up to date until the end of the block."""
        self._evaluator.pin(node, 1)
        try:
            yield
        finally:
            self._evaluator.pin(node, -1)

    def node(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Dependent:
        """Return the node of these arguments."""
        node = self._nodes.find_or_make(Call(self.function, args, kwargs))
        if not kwargs:
            self.remember(args, node)
        self.note_use(node)
        return node


use_vectorcall(Computed)


class Computing:
    """Makes computed values of functions."""

    def __init__(self, store: Store, evaluator: Evaluator, isolate: Isolate) -> None:
        self._store = store
        self._evaluator = evaluator
        self._isolate = isolate
        self._registry: Registry[Any] = Registry()

    @overload
    def computed(self, function: Callable[P, R], /) -> Computed[P, R]: ...

    @overload
    def computed(self, *, max_entries: int | None = 1000) -> Callable[[Callable[P, R]], Computed[P, R]]: ...

    def computed(self, function: Any = MISSING, *, max_entries: int | None = 1000) -> Any:
        """Turn a function into a value that is derived from shared state, and evaluated once for all sessions.

        Call the decorated function to read the value. A script run, fragment, live region or other computed value that
        reads it depends on the *result*: when something that the function has read changes, the function is called
        once, on a thread of its own, and only a different result reruns the sessions that depend on it. A value that
        nothing depends on is evaluated when it is next read.

        So you can depend on a part of a large value: with ``@computed def price(name): return
        server_state["prices"][name]``, a session that reads ``price("ACME")`` is not rerun for other prices.

        Calls with arguments of the same content share one result. The function may read shared state and other
        computed values. It must not change shared state, and it cannot create elements or use the session: pass it what
        it needs. Exceptions are raised in every reader, until something changes that the function has read.

        Parameters
            ``max_entries``: how many results are kept that nothing depends on, for different arguments; those used
            last are kept. None keeps them all.

        Thread-safety
            Read the value on any thread. A read waits while another thread evaluates the same result.

        Raises
            ``TypeError`` if the function is async, ``ValueError`` if `max_entries` is less than 1. The call raises
            ``TypeError`` if an argument has no content that can be compared, ``FastServerStateError`` if computed
            values depend on each other in a circle, or if the function changes shared state.

        >>> from fastserverstate import computed, server_state
        >>> server_state["scores"] = {"ann": 3, "bob": 5}
        >>> @computed
        ... def leader() -> str:
        ...     scores = server_state["scores"]
        ...     return max(scores, key=scores.get)
        >>> leader()
        'bob'
        >>> server_state["scores"] = {"ann": 9, "bob": 5}
        >>> leader()
        'ann'
        >>> del server_state["scores"]
        """
        if max_entries is not None and max_entries < 1:
            raise ValueError(f"max_entries is 1 or more, or None for no limit, not {max_entries!r}.")

        def decorate(function: Callable[..., Any]) -> Any:
            check_function(function, "The function that computed decorates")
            return self._registry.find_or_make(
                function, lambda: Computed(self._store, self._evaluator, function, max_entries, self._isolate)
            )

        return decorate if function is MISSING else decorate(function)

    def reset_after_fork(self) -> None:
        self._evaluator.reset_after_fork()
        self._registry.reset_after_fork()
