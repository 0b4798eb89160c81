"""`python -m fastserverstate` lists, exports, imports and moves a state file."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from cluster.subject import Peer
from durable.processes import environment
from harness.engine import engine
from hypothesis import given
from unit.test_codec import NEEDS_PICKLE, values

from fastserverstate.__main__ import _line, _parse, main
from fastserverstate.codec import Codec
from fastserverstate.durable.state_file import Row, StateFile, read_only

SECRET = "a secret of the tests"
PLAIN = Codec.for_file(None)
SIGNED = Codec.for_file(SECRET)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")

VALUES = {
    "count": 12,
    "names": ["Ada", {"a": [None, True, 0.1, -0.0, "ü"]}],
    "point": (1, 2),
    "unknown": float("nan"),
    "by number": {1: "one"},
    "large": -(16**5000),
    "frame": pd.DataFrame({"a": [1, 2]}),
    "range": range(3),
    "line\nbreak \ud800": "\ud800",
    "": b"\0",
}


def run(*arguments, stdin="", **variables):
    return subprocess.run(
        [sys.executable, "-m", "fastserverstate", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment() | variables,
    )


def succeed(*arguments, **options):
    done = run(*arguments, **options)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    return done


def fail(*arguments, **options):
    done = run(*arguments, **options)
    assert (done.returncode, done.stdout) == (1, "")
    error = done.stderr.splitlines()[-1]  # below what the connection logs
    assert error.startswith("Error: ")
    return error


def fill(path, given=VALUES, codec=PLAIN, **deadlines):
    file = StateFile.open(path, sync=False)
    rows = [
        Row(key, codec.encode(key, value), 100 + n, n, deadlines.get(key))
        for n, (key, value) in enumerate(given.items())
    ]
    file.write(rows, 500)
    file.close()
    return rows


def stored(path):
    with read_only(path) as rows:
        return list(rows)


def test_list(path):
    fill(path, count=1_800_000_000.0, names=1e18)
    lines = succeed("list", path).stdout.splitlines()
    assert lines[0].split() == ["KEY", "FORMAT", "BYTES", "EXPIRES"]
    assert lines[1].split() == ["count", "integer", "3", "2027-01-15", "08:00:00", "UTC"]
    assert lines[2].split() == ["names", "msgpack", "33", "never"]
    assert lines[6].split() == ["large", "large", "integer", "5,003"]
    assert [line.split()[1] for line in lines[7:9]] == ["Arrow", "pickle"]
    assert lines[9].startswith(r"'line\nbreak \ud800'  pickle ")
    assert lines[10].split() == ["''", "msgpack", "4"]
    assert lines[11:] == ["", f"10 keys, {sum(len(row.data) for row in stored(path)):,} bytes"]


def test_list_of_one_signed_value(path):
    fill(path, {"k": range(3)}, SIGNED)
    output = succeed("list", path).stdout
    assert "signed pickle" in output
    assert "1 key, " in output


def test_list_ends_with_its_reader(path):
    fill(path, {f"key {n}": n for n in range(5000)})
    command = [sys.executable, "-m", "fastserverstate", "list", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_export_and_import_restore_exactly(path, tmp_path):
    rows = fill(path, count=1.5)
    exported, again = tmp_path / "exported", tmp_path / "again.db"
    assert succeed("export", path, "-o", exported).stderr == "Exported 10 keys.\n"
    assert exported.stat().st_mode & 0o777 == 0o600
    assert succeed("import", again, exported).stderr == f"Imported 10 keys into {again}.\n"
    assert stored(again) == rows
    assert succeed("export", again).stdout == exported.read_text()
    objects = [json.loads(line) for line in exported.read_text().splitlines()]
    assert [one["key"] for one in objects if "value" in one] == ["count", "names"]
    assert objects[0] == {"key": "count", "value": 12, "version": 100, "position": 0, "deadline": 1.5}
    assert objects[2]["format"] == "msgpack"
    assert base64.b64decode(objects[2]["data"]) == rows[2].data


@given(values)
def test_exported_line_has_the_same_bytes(value):
    row = Row("k", PLAIN.encode("k", value), 1, 2, None)
    assert _parse([_line(row)]) == [row]


@pytest.mark.parametrize("value", NEEDS_PICKLE, ids=repr)
@pytest.mark.parametrize("codec", [PLAIN, SIGNED], ids=["plain", "signed"])
def test_exported_pickle_is_not_loaded(value, codec):
    row = Row("k", codec.encode("k", value), 1, 2, None)
    assert '"data"' in _line(row)
    assert _parse([_line(row)]) == [row]


def test_export_replaces_no_file(path, tmp_path):
    fill(path)
    (tmp_path / "out").write_text("before")
    assert "File exists" in fail("export", path, "-o", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "before"


def test_export_while_the_file_is_open(path, opened):
    file = opened(path)
    file.write([Row("k", b"i1", 1, 1, None)], 1)
    assert json.loads(succeed("export", path).stdout)["key"] == "k"
    assert "already open" not in fail("import", path, stdin='{"key": "k", "value": 1}')
    assert "in use by process" in fail("move", path, "redis://127.0.0.1:1")


def test_import_from_standard_input(path):
    lines = '{"key": "a", "value": {"b": [1.5]}}\n\n{"key": "c", "value": null, "deadline": 7}\n'
    assert succeed("import", path, stdin=lines).stderr == f"Imported 2 keys into {path}.\n"
    rows = stored(path)
    assert [(row.key, PLAIN.decode(row.key, row.data), row.deadline) for row in rows] == [
        ("a", {"b": [1.5]}, None),
        ("c", None, 7.0),
    ]
    assert [row.version for row in rows] == [1, 3]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '"text"',
        "{}",
        '{"key": "k"}',
        '{"key": 1, "value": 1}',
        '{"key": "k", "data": "?"}',
        '{"key": "k", "data": "Pw=="}',
        '{"key": "k", "data": 1}',
        '{"key": "k", "value": 1, "version": "1"}',
        '{"key": "k", "value": 1, "version": -1}',
        f'{{"key": "k", "value": 1, "position": {2**63}}}',
        '{"key": "k", "value": 1, "deadline": "tomorrow"}',
        '{"key": "first", "value": 1}',
    ],
)
def test_wrong_line_imports_nothing(path, capsys, tmp_path, line):
    source = tmp_path / "lines"
    source.write_text(f'{{"key": "first", "value": 1}}\n{line}\n')
    assert main(["import", str(path), str(source)]) == 1
    assert re.fullmatch(r"Error: Line 2 .*Nothing was imported\.\n", capsys.readouterr().err)
    assert not path.exists()


def test_import_into_a_file_with_keys(path, capsys, tmp_path):
    before = fill(path)
    source = tmp_path / "lines"
    source.write_text('{"key": "new", "value": 1}\n{"key": "count", "value": 2, "version": 9}\n')
    assert main(["import", str(path), str(source)]) == 1
    assert "has 10 keys already. Nothing was imported. With --overwrite" in capsys.readouterr().err
    assert stored(path) == before
    assert main(["import", "--overwrite", str(path), str(source)]) == 0
    after = {row.key: row for row in stored(path)}
    assert list(after) == [*VALUES, "new"]
    assert after["count"] == Row("count", b"i2", 509, 0, None)
    assert after["new"].version == 501
    assert [after[row.key] for row in before[1:]] == before[1:]
    file = StateFile.open(path)
    assert file.clock == 509
    file.close()


@pytest.mark.parametrize("command", ["list", "export", "move"])
def test_missing_file(path, command):
    url = ["redis://127.0.0.1:1"] if command == "move" else []
    assert fail(command, path, *url) == f"Error: {path}: No such file or directory"
    assert not list(path.parent.iterdir())


def test_damaged_file_is_told_and_stays(path):
    path.write_text("no database")
    assert "is damaged" in fail("list", path)
    assert path.read_text() == "no database"


def test_wrong_arguments():
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m fastserverstate")
    commands = re.findall(r"^    (\w+)", succeed("--help").stdout, re.MULTILINE)
    assert commands == ["list", "export", "import", "move"]


def test_commands_do_not_connect(path):
    """The environment is that of the app."""
    fill(path)
    url = f"sqlite:///{path}"
    assert "count" in succeed("list", path, FASTSERVERSTATE_URL=url).stdout
    succeed("import", path, "--overwrite", stdin="", FASTSERVERSTATE_URL=url)


def test_example_of_the_documentation(path):
    (lines,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    succeed("import", path, stdin=lines)
    assert [PLAIN.decode(row.key, row.data) for row in stored(path)] == [12, (1, 2)]
    assert succeed("export", path).stdout == lines


@pytest.fixture(scope="module")
def server():
    with engine() as running:
        yield running


@pytest.fixture
def empty(server):
    with server.client() as client:
        client.flushall()
    return server


def joined(server, namespace="default"):
    return Peer(server.url, namespace, secret=SECRET)


def test_move_to_redis(path, empty):
    in_an_hour = time.time() + 3600
    many = {f"key {n}": n for n in range(1200)}
    fill(path, {**VALUES, **many, "late": 1}, SIGNED, names=in_an_hour, late=1.0)
    done = succeed("move", path, empty.url, "--namespace", "shop", FASTSERVERSTATE_SECRET=SECRET)
    assert done.stderr == f"Moved 1,210 keys to Redis. {path} is unchanged: keep it as a backup, or delete it.\n"
    with joined(empty, "shop") as peer:
        expected = {**VALUES, **many}
        assert peer.values.keys() == expected.keys()
        exact = {key: SIGNED.encode(key, value) for key, value in expected.items()}
        assert {key: SIGNED.encode(key, value) for key, value in peer.values.items()} == exact
    with empty.client() as client:
        ((key, deadline),) = client.zrange("fss:{shop}:ttl", 0, -1, withscores=True)
    assert key == b"names"
    assert abs(deadline / 1000 - in_an_hour) < 60
    assert len(stored(path)) == 1211
    assert not os.path.exists(f"{path}.lock")


def test_move_into_a_namespace_with_keys(path, empty):
    fill(path, {"count": 12})
    with joined(empty) as peer:
        peer.node.set("count", 1)
        peer.node.set("other", range(3))
        text = fail("move", path, empty.url)
        assert "The namespace 'default'" in text
        assert "has 2 keys already. Nothing was written." in text
        peer.node.sync()
        assert peer.values == {"count": 1, "other": range(3)}
        succeed("move", path, empty.url, "--overwrite")
        peer.node.sync()
        assert peer.values == {"count": 12, "other": range(3)}


def test_move_of_pickles(path, empty):
    fill(path, {"count": 12, "range": range(3)})
    assert "server_state['range'] cannot be sent to other servers" in fail("move", path, empty.url)
    text = fail("move", path, empty.url, FASTSERVERSTATE_SECRET=SECRET)
    assert "server_state['range'] is a pickle that is not signed" in text
    assert "--trust-pickles" in text
    with joined(empty) as peer:
        assert peer.values == {}
    succeed("move", path, empty.url, "--trust-pickles", FASTSERVERSTATE_SECRET=SECRET)
    with joined(empty) as peer:
        assert peer.values == {"count": 12, "range": range(3)}


def test_move_to_a_server_that_is_down(path):
    fill(path, {"count": 12})
    assert "cannot be reached" in fail("move", path, "redis://127.0.0.1:1")
    assert "is not valid" in fail("move", path, "redis://[")
