"""Directives that write the API reference: from the docstrings of what can be imported, and from the core's stub."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

import fastserverstate

PUBLIC = {
    "State": ["server_state", "peek", "touch"],
    "Typed state": ["State"],
    "Spaces": ["space", "user_state", "guard", "Space"],
    "Locks": ["server_state_lock", "KeyLock", "KeyLocks"],
    "Changes": ["edit", "atomic", "compare_and_set", "transaction"],
    "Waiting and listening": ["wait_for", "wait_for_async", "on_change", "Subscription"],
    "Live regions and computed values": ["live", "computed", "Live", "Computed"],
    "Sessions": [
        "on_session_start",
        "on_session_pause",
        "on_session_resume",
        "on_session_end",
        "own",
        "SessionInfo",
    ],
    "Presence": ["join", "online", "Visitor"],
    "Events": ["emit", "events", "Events", "broadcast"],
    "Limits": ["limiter", "Limiter"],
    "Values that are built once": ["once"],
    "Widgets": ["shared", "WidgetArguments"],
    "Reruns": ["no_rerun", "force_rerun_bound_sessions"],
    "Options": ["configure", "expire"],
    "Restarts and several servers": ["connect"],
    "Errors": [
        "FastServerStateError",
        "AccessDeniedError",
        "NotLoggedInError",
        "RerunSuppressedError",
        "DeadlockError",
        "UnreadableValueError",
        "WouldBlockError",
    ],
}
OTHERS = "More"
MAKERS = {"__new__", "__init__"}
STUB = Path(fastserverstate.__file__).with_name("_core.pyi")


def entry(kind: str, declaration: str, doc: str | None, nested: list[str] | None = None) -> list[str]:
    """The reStructuredText of a name: what it is, what is said of it, and what it has."""
    content = [inspect.cleandoc(doc or ""), *(nested or [])]
    return [f".. py:{kind}:: {declaration}", "", *(textwrap.indent(part, "   ") + "\n" for part in content)]


def public_names(group: str) -> list[str]:
    if group != OTHERS:
        return described(PUBLIC[group])
    grouped = {name for names in PUBLIC.values() for name in names}
    others = [name for name in fastserverstate.__all__ if name not in grouped]
    return [f".. rubric:: {OTHERS}", "", *described(others)] if others else []


def described(names: list[str]) -> list[str]:
    return [line for name in names for line in public_name(name, getattr(fastserverstate, name))]


def public_name(name: str, value: Any) -> list[str]:
    if inspect.isclass(value):
        return entry("exception" if issubclass(value, Exception) else "class", name, value.__doc__)
    if inspect.isfunction(value):
        return entry("function", name + signature(value), value.__doc__)
    own = vars(type(value))
    methods = [
        "\n".join(entry("function", f"{name}.{key}{signature(getattr(value, key))}", method.__doc__))
        for base in type(value).__mro__
        if base.__module__.startswith(fastserverstate.__name__)
        for key, method in vars(base).items()
        if inspect.isfunction(method) and method.__doc__ and not key.startswith("_")
    ]
    methods += [method for base in type(value).__mro__ for method in inherited(name, base)]
    if "__call__" not in own or own["__call__"].__doc__ is None:  # it may be there to say that it is not called
        return entry("data", name, value.__doc__, methods)
    of_call = inspect.cleandoc(own["__call__"].__doc__ or "")
    return entry("function", name + signature(value.__call__), value.__doc__, [of_call, *methods])


def inherited(name: str, base: type) -> Iterator[str]:
    """The methods that a public object has from a class of the core."""
    for definition in stub().body:
        if base.__module__ == f"{fastserverstate.__name__}._core" and getattr(definition, "name", "") == base.__name__:
            for function in documented_methods(definition):
                function.name = f"{name}.{function.name}"
                yield "\n".join(stub_function(function, "function", without_first=True))


def signature(function: Any) -> str:
    return stringify_signature(inspect.signature(function), unqualified_typehints=True)


def stub() -> ast.Module:
    return ast.parse(STUB.read_text(encoding="utf-8"))


def stub_names(body: list[ast.stmt]) -> Iterator[str]:
    """What a stub documents, in its order."""
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            value = f"\n   :value: {ast.unparse(statement.value)}" if statement.value else ""
            yield from entry("data", ast.unparse(statement.target) + value, string(following))
        elif isinstance(statement, ast.FunctionDef):
            yield from stub_function(statement, "function", without_first=False)
        elif isinstance(statement, ast.ClassDef):
            yield from stub_class(statement)


def string(statement: ast.stmt | None) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return str(statement.value.value)
    return None


def stub_class(definition: ast.ClassDef) -> list[str]:
    functions = [statement for statement in definition.body if isinstance(statement, ast.FunctionDef)]
    makers = [function for function in functions if function.name in MAKERS]
    arguments = parameters(makers[0], without_first=True) if makers else ""
    doc = [ast.get_docstring(definition) or "", *(ast.get_docstring(maker) or "" for maker in makers)]
    methods = [
        "\n".join(stub_function(function, "method", without_first=True)) for function in documented_methods(definition)
    ]
    return entry("class", definition.name + arguments, "\n\n".join(doc), methods)


def documented_methods(definition: ast.ClassDef) -> list[ast.FunctionDef]:
    return [
        statement
        for statement in definition.body
        if isinstance(statement, ast.FunctionDef) and statement.name not in MAKERS and ast.get_docstring(statement)
    ]


def stub_function(function: ast.FunctionDef, kind: str, *, without_first: bool) -> list[str]:
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    if "property" in decorators:
        return entry("property", function.name, ast.get_docstring(function))
    declaration = function.name + parameters(function, without_first=without_first) + returns
    return entry(kind, declaration, ast.get_docstring(function))


def parameters(function: ast.FunctionDef, *, without_first: bool) -> str:
    arguments = function.args
    if without_first:
        arguments.args = arguments.args[1:]
    return f"({ast.unparse(arguments)})"


class PublicNames(SphinxDirective):
    """``.. public-names:: GROUP``: the names of ``fastserverstate.__all__`` in a group, or those in none."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        group = self.arguments[0]
        if group not in {*PUBLIC, OTHERS}:
            raise self.error(f"There is no group {group!r} of public names.")
        head = [".. py:module:: fastserverstate", "   :no-index:", ""]
        return self.parse_text_to_nodes("\n".join([*head, *public_names(group)]))


class ModuleNames(SphinxDirective):
    """``.. module-names:: cluster``: the names in ``fastserverstate.cluster.__all__``, functions first."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = f"fastserverstate.{self.arguments[0]}"
        module = import_module(name)
        values = {name: getattr(module, name) for name in module.__all__}
        functions_first = sorted(values, key=lambda name: (inspect.isclass(values[name]), name))
        head = [f".. py:module:: {name}", ""]
        text = [line for name in functions_first for line in public_name(name, values[name])]
        return self.parse_text_to_nodes("\n".join([*head, *text]))


class CoreStub(SphinxDirective):
    """``.. core-stub::``: what the compiled core's stub says."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(STUB))
        module = stub()
        head = [".. py:module:: fastserverstate._core", "", inspect.cleandoc(ast.get_docstring(module) or ""), ""]
        return self.parse_text_to_nodes("\n".join([*head, *stub_names(module.body)]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    app.add_directive("module-names", ModuleNames)
    app.add_directive("core-stub", CoreStub)
    return {"parallel_read_safe": True}
