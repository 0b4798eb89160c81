"""``python -m fastserverstate``: lists, exports and imports a state file, and moves it to Redis. See docs/cli.md."""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

from fastserverstate.codec import FORMATS, Codec
from fastserverstate.durable.state_file import Row, StateFile, read_only
from fastserverstate.errors import FastServerStateError

_PLAIN_FORMATS = {"integer", "large integer", "msgpack"}  # decoding them runs no code
_BATCH = 500  # keys in one write to Redis
_LARGEST = 2**62  # leaves room for the versions that a file has already
_SECRET = "FASTSERVERSTATE_SECRET"
_plain = Codec.for_file(None)


class _RefusedError(Exception):
    """The command did nothing. The text says why."""


# list


def _list(arguments: argparse.Namespace) -> None:
    with read_only(arguments.file) as rows:
        lines = [("KEY", "FORMAT", "BYTES", "EXPIRES")]
        size = 0
        for row in rows:
            data = row.data or b""
            size += len(data)
            lines.append((_shown(row.key), _format(data), f"{len(data):,}", _moment(row.deadline)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for key, kind, length, expires in lines:
        line = f"{key:{widths[0]}}  {kind:{widths[1]}}  {length:>{widths[2]}}  {expires}"
        print(line.rstrip())
    print(f"\n{_count(len(lines) - 1)}, {size:,} bytes")


def _shown(key: str) -> str:
    return key if key.isprintable() and key.strip() == key != "" else ascii(key)


def _format(data: bytes) -> str:
    return FORMATS.get(data[:1], "unknown")


def _moment(deadline: float | None) -> str:
    if deadline is None:
        return ""
    try:
        return datetime.datetime.fromtimestamp(deadline, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OSError, OverflowError, ValueError):  # after the year 9999
        return "never"


def _count(number: int) -> str:
    return "1 key" if number == 1 else f"{number:,} keys"


# export


def _export(arguments: argparse.Namespace) -> None:
    with read_only(arguments.file) as rows, _output(arguments.output) as output:
        number = 0
        for row in rows:
            output.write(f"{_line(row)}\n")
            number += 1
    print(f"Exported {_count(number)}.", file=sys.stderr)


@contextlib.contextmanager
def _output(name: str | None) -> Iterator[IO[str]]:
    if name is None:
        yield sys.stdout
        return
    # The state is as private as the file that it comes from.
    with open(name, "x", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        yield file


def _line(row: Row) -> str:
    data = row.data or b""
    value = _as_json(row.key, data)
    if value is None:
        encoded = base64.b64encode(data).decode()
        value = f'"format": {json.dumps(_format(data))}, "data": "{encoded}"'
    rest = json.dumps({"version": row.version, "position": row.position, "deadline": row.deadline})
    return f'{{"key": {json.dumps(row.key)}, {value}, {rest[1:]}'


def _as_json(key: str, data: bytes) -> str | None:
    """Return the value as a member of an object, or None unless importing it gives the same bytes."""
    if _format(data) not in _PLAIN_FORMATS:
        return None
    try:
        text = json.dumps(_plain.decode(key, data), allow_nan=False)
        is_exact = _plain.encode(key, json.loads(text)) == data
    except (FastServerStateError, TypeError, ValueError):
        return None
    return f'"value": {text}' if is_exact else None


# import


def _import(arguments: argparse.Namespace) -> None:
    with _input(arguments.input) as lines:
        imported = _parse(lines)
    file = StateFile.open(arguments.file)
    try:
        existing = list(file.rows())
        if existing and not arguments.overwrite:
            raise _RefusedError(
                f"{file.path} has {_count(len(existing))} already. Nothing was imported. With --overwrite, keys with "
                "the same names are replaced, and the others stay."
            )
        # Versions only rise. Keys of the file stay in front of new ones.
        version, position = file.clock, max((row.position for row in existing), default=0)
        places = {row.key: row.position for row in existing}
        rows = [
            row._replace(version=row.version + version, position=places.get(row.key, row.position + position))
            for row in imported
        ]
        file.write(rows, max((row.version for row in rows), default=0))
    finally:
        file.close()
    print(f"Imported {_count(len(rows))} into {file.path}.", file=sys.stderr)


@contextlib.contextmanager
def _input(name: str | None) -> Iterator[Iterable[str]]:
    if name is None:
        yield sys.stdin
        return
    with open(name, encoding="utf-8") as file:
        yield file


def _parse(lines: Iterable[str]) -> list[Row]:
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _row(json.loads(line), number)
        except (FastServerStateError, KeyError, TypeError, ValueError) as error:
            raise _RefusedError(
                f"Line {number} is not an exported key ({type(error).__name__}: {error}). Nothing was imported."
            ) from error
        if row.key in rows:
            raise _RefusedError(f"Line {number} has the key {row.key!r} again. Nothing was imported.")
        rows[row.key] = row
    return list(rows.values())


def _row(given: dict[str, Any], number: int) -> Row:
    key = _checked(given["key"], str)
    if "value" in given:
        data = _plain.encode(key, given["value"])
    else:
        data = base64.b64decode(_checked(given["data"], str), validate=True)
        if _format(data) == "unknown":
            raise ValueError(f"the format of {key!r} is unknown")
    deadline = given.get("deadline")
    return Row(
        key,
        data,
        _number(given.get("version", number)),
        _number(given.get("position", number)),
        None if deadline is None else float(_checked(deadline, float, int)),
    )


def _number(value: Any) -> int:
    number: int = _checked(value, int)
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{number} is not between 0 and {_LARGEST}")
    return number


def _checked(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{value!r:.50} is not of type {kinds[0].__name__}")
    return value


# move


def _move(arguments: argparse.Namespace) -> None:
    with read_only(arguments.file, exclusive=True) as rows:
        number = _move_rows(rows, arguments)
    print(
        f"Moved {_count(number)} to Redis. {arguments.file} is unchanged: keep it as a backup, or delete it.",
        file=sys.stderr,
    )


def _move_rows(rows: Iterable[Row], arguments: argparse.Namespace) -> int:
    import fastserverstate  # noqa: PLC0415
    from fastserverstate import cluster  # noqa: PLC0415

    secret = os.environ.get(_SECRET) or None
    deadlines: dict[str, float] = {}
    values: dict[str, Any] = {}
    now = time.time()
    for row in rows:
        if row.deadline is not None and row.deadline <= now:
            continue
        data = row.data or b""
        is_trusted = arguments.trust_pickles and _format(data) == "pickle"
        if secret is not None and _format(data) == "pickle" and not is_trusted:
            raise _RefusedError(
                f"server_state[{row.key!r}] is a pickle that is not signed with {_SECRET}. Nothing was written. If you "
                "trust the file, add --trust-pickles."
            )
        values[row.key] = Codec.for_file(None if is_trusted else secret).decode(row.key, data)
        if row.deadline is not None:
            deadlines[row.key] = row.deadline
    fastserverstate.connect(arguments.url, namespace=arguments.namespace)
    adapter, status = cluster.membership.adapter, cluster.status()
    assert adapter is not None
    assert status is not None
    try:
        number = len(fastserverstate.server_state) + status.unreadable
        if number and not arguments.overwrite:
            raise _RefusedError(
                f"The namespace {status.namespace!r} at {status.address} has {_count(number)} already. Nothing was "
                "written. Choose another one with --namespace. With --overwrite, keys with the same names are "
                "replaced, and the others stay."
            )
        for key, value in values.items():  # before the first write
            adapter.node.encode(key, value)
        keys = list(values)
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            left = {key: max(0.001, deadlines[key] - time.time()) for key in batch if key in deadlines}
            adapter.node.commit({key: values[key] for key in batch}, deadlines=left)
    finally:
        cluster.disconnect()
    return len(values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastserverstate", description="List, export and import a state file, or move it to Redis."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        command.add_argument("file", metavar="FILE", help="the state file, such as state.db")
        return command

    add("list", _list, "List the keys of a file. An app may use the file meanwhile.")
    export = add("export", _export, "Export a file as JSON lines. An app may use the file meanwhile.")
    export.add_argument("-o", "--output", metavar="OUT", help="a new file, for you alone (default: standard output)")
    imports = add("import", _import, "Import exported keys into a file, which is created if it is missing.")
    imports.add_argument("input", metavar="IN", nargs="?", help="the exported keys (default: standard input)")
    move = add("move", _move, "Write the keys of a file to Redis, for servers that connect there.")
    move.add_argument("url", metavar="URL", help="the Redis server, such as redis://localhost:6379")
    move.add_argument("--namespace", help="the namespace (default: FASTSERVERSTATE_NAMESPACE, or default)")
    move.add_argument(
        "--trust-pickles", action="store_true", help=f"load unsigned pickles of the file, in spite of {_SECRET}"
    )
    for command in (imports, move):
        command.add_argument("--overwrite", action="store_true", help="write although there are keys already")
    return parser


def main(given: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, or 1 after an error. Wrong arguments exit with 2."""
    arguments = _parser().parse_args(given)
    try:
        arguments.action(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `list` into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"Error: {text}", file=sys.stderr)
        return 1
    except (_RefusedError, FastServerStateError, ImportError, ValueError, sqlite3.Error) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
