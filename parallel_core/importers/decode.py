"""From a stranger's bytes to checked values: bounded in size, typed field by field.

Nothing here executes what it reads: JSON and gzip only, never pickle. Every refusal is a
TraceError whose sentence names the file or the field, and what would be accepted.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

LIMIT_BYTES = 64 * 2**20
"""The default cap on one file, packed and unpacked."""

_BYTES_A_VALUE = 8
_FAR = 10**19
_TEXT = 300
PICKLED = (
    "{name} is a pickle, which can run code when it is opened, so it is refused. A flight record "
    "is wanted as JSON: in the job, write the bytes of "
    "torch._C._distributed_c10d._dump_nccl_trace_json() (or _dump_fr_trace_json()) to a file per "
    "rank, or ask the debug server for its fr_trace_json page; the files that "
    "TORCH_FR_DUMP_TEMP_FILE names are pickles, which torch's own fr_trace tool reads"
)


class TraceError(ValueError):
    """A file that is no trace, or a broken one: which file or field, and what is accepted."""


def unpack(name: str, data: bytes, limit_bytes: int) -> tuple[Any, int]:
    """The JSON value in `data`, gzipped or not, and its size unpacked, at most `limit_bytes`.

    Raises TraceError for anything else: pickles and zip files by name.
    """
    if len(data) > limit_bytes:
        raise _too_large(name, limit_bytes)
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(name, data, limit_bytes)
    if _pickled(data):
        raise TraceError(PICKLED.format(name=name))
    if data[:4] == b"PK\x03\x04":
        raise TraceError(f"{name} is a zip file; unpack it and load the JSON inside")
    if sum(map(data.count, (b",", b"[", b"{"))) > max(limit_bytes // _BYTES_A_VALUE, 64):
        raise TraceError(f"{name} holds too many values; record fewer steps")
    try:
        return json.loads(data), len(data)
    except (ValueError, RecursionError):
        text = "neither JSON nor gzipped JSON, or it is cut off; a trace is one JSON object"
        raise TraceError(f"{name} is {text}") from None


def _pickled(data: bytes) -> bool:
    """Whether this starts as pickles do: no JSON starts with these bytes."""
    return data[:1] == b"\x80" or (data[:1] in (b"(", b"c", b"]", b"}") and data[-1:] == b".")


def _gunzip(name: str, data: bytes, limit_bytes: int) -> bytes:
    """All members of a gzip file, stopping as soon as they outgrow the limit."""
    out = bytearray()
    while data:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            out += member.decompress(data, limit_bytes + 1 - len(out))
        except zlib.error:
            raise TraceError(f"{name} is a damaged gzip file; download it again") from None
        if len(out) > limit_bytes:
            raise _too_large(name, limit_bytes)
        if not member.eof:
            raise TraceError(f"{name} is a gzip file that is cut off; download it again")
        data = member.unused_data.lstrip(b"\0")
    return bytes(out)


def _too_large(name: str, limit_bytes: int) -> TraceError:
    size = f"{limit_bytes / 2**20:.3g} MiB"
    return TraceError(
        f"{name} is larger, unpacked, than the {size} that are left of what may be loaded at once; "
        "record fewer steps, or load fewer ranks"
    )


def mapping(value: object, what: str) -> dict[str, Any]:
    """`value` as a JSON object; raises TraceError naming `what`."""
    if not isinstance(value, dict):
        raise TraceError(f"{what} must be an object, not {_kind(value)}")
    return value


def listing(value: object, what: str) -> list[Any]:
    """`value` as a JSON array."""
    if not isinstance(value, list):
        raise TraceError(f"{what} must be a list, not {_kind(value)}")
    return value


def whole(value: object, what: str, low: int = -_FAR, high: int = _FAR) -> int:
    """`value` as a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TraceError(f"{what} must be a whole number{_range(low, high)}, not {_kind(value)}")
    return value


def number(value: object, what: str, low: float = -1e19, high: float = 1e19) -> float:
    """`value` as a finite number from `low` to `high`; an int stays exact."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TraceError(f"{what} must be a number, not {_kind(value)}")
    if not low <= value <= high:  # also false for NaN and infinities
        raise TraceError(f"{what} must be a number from {low:g} to {high:g}, not {_kind(value)}")
    return value


def text(value: object, what: str) -> str:
    """`value` as a printable string of at most 300 characters (longer is cut)."""
    if not isinstance(value, str):
        raise TraceError(f"{what} must be a string, not {_kind(value)}")
    return clean(value)


def clean(value: str) -> str:
    """A string fit for a page: no control characters, no lone surrogates, at most 300 long."""
    kept = value[:_TEXT].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in kept)


def _range(low: int, high: int) -> str:
    if low == -_FAR:
        return ""
    return f" of at least {low}" if high == _FAR else f" from {low} to {high}"


def _kind(value: object) -> str:
    """A short picture of a bad value."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = "null" if value is None else repr(value) if not isinstance(value, int) else "that"
    if isinstance(value, int) and abs(value) < 10**12:
        shown = str(value)
    return clean(shown if len(shown) <= 40 else shown[:37] + "...")
