"""Load a trace, whoever wrote it: recognised by content, checked, never unpickled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parallel_core.importers.decode import LIMIT_BYTES, TraceError, clean, unpack
from parallel_core.importers.flight_record import (
    is_bundle,
    is_record,
    read_bundle,
    read_record,
    with_groups,
)
from parallel_core.importers.own import is_own, read_own
from parallel_core.importers.parts import Part, join
from parallel_core.importers.profiler import is_profile, read_profile
from parallel_core.trace import Kind, Trace

__all__ = ["LIMIT_BYTES", "TraceError", "load", "load_many"]


def load(name: str, data: bytes, *, limit_bytes: int = LIMIT_BYTES) -> Trace:
    """The trace in one file: our JSON, a torch.profiler trace, or a flight record as JSON.

    Any of them may be gzipped. `limit_bytes` caps the file, before and after unpacking. A
    measured trace that comes from a file is a recorded one. Raises TraceError.
    """
    return load_many([(name, data)], limit_bytes=limit_bytes)


def load_many(files: Sequence[tuple[str, bytes]], *, limit_bytes: int = LIMIT_BYTES) -> Trace:
    """One trace from the files of one job, a (name, bytes) pair each: usually one file a rank.

    `limit_bytes` caps all of them together. Raises TraceError, also for files of two jobs.
    """
    if not files:
        raise TraceError("there is no file to load; choose at least one")
    parts: list[Part] = []
    left = limit_bytes
    for raw_name, data in files:
        name = clean(raw_name) or "the file"
        value, size = unpack(name, data, left)
        left -= size
        if is_own(value):
            return _own(name, value, alone=len(files) == 1)
        parts += _parts(name, value)
    names = clean(files[0][0]) if len(files) == 1 else f"{len(files)} files"
    trace = join(with_groups(parts), names)
    if not trace.spans:
        raise TraceError(f"{names} holds no op and no message; record at least one step")
    return trace


def _own(name: str, value: dict[str, Any], *, alone: bool) -> Trace:
    if not alone:
        raise TraceError(f"{name} is a whole trace of ours, of all ranks; load it alone")
    trace = read_own(name, value)
    if trace.kind is not Kind.MEASURED:
        return trace
    return replace(trace, provenance=replace(trace.provenance, kind=Kind.RECORDED))


def _parts(name: str, value: object) -> list[Part]:
    if isinstance(value, dict):
        if is_bundle(value):
            return read_bundle(name, value)
        if is_profile(value):
            return [read_profile(name, value)]
        if is_record(value):
            return [read_record(name, value)]
    known = "a ShardLab trace, a torch.profiler trace (traceEvents) or a flight record (pg_config)"
    raise TraceError(f"{name} is JSON, but not {known}")
