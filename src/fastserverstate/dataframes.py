"""pandas DataFrames as Arrow, which is safe to read from any source."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from fastserverstate.change import content_fingerprint


def is_frame(value: Any) -> bool:
    """Return True for a pandas.DataFrame, but not for one of a subclass."""
    pandas = sys.modules.get("pandas")  # it is imported if there is any DataFrame
    return pandas is not None and type(value) is pandas.DataFrame


def encode_frame(frame: Any) -> bytes | None:
    """Return the frame's bytes, or None if decoding them would not give exactly the same frame."""
    arrow, ipc = import_module("pyarrow"), import_module("pyarrow.ipc")
    if len({type(name) for name in frame.columns}) > 1:
        return None  # all names would become text, with a warning
    before = content_fingerprint(frame)
    sink = arrow.BufferOutputStream()
    try:
        table = arrow.Table.from_pandas(frame)
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        after = content_fingerprint(decode_frame(data))
    except (arrow.ArrowException, TypeError, ValueError, KeyError, NotImplementedError):  # not supported
        return None
    return data if before == after is not None else None


def decode_frame(data: bytes) -> Any:
    with import_module("pyarrow.ipc").open_stream(data) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table.to_pandas()
