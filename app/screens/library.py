"""The traces a reader can look at: those that ship with the lab, and their own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import streamlit as st

from parallel_core import places
from parallel_core.importers.load import TraceError, load, load_many
from parallel_core.trace import Trace
from screens import chrome

MARK = b'"shardlab_trace"'  # stands in the first bytes of every trace of ours
TOGETHER, APART = "the ranks of one job", "traces to compare"


@cache
def shipped() -> dict[str, Trace]:
    """The traces in assets/, by name."""
    files = sorted(places.assets().glob("*.json"))
    ours = [file for file in files if MARK in _head(file)]
    return {file.stem: load(file.name, file.read_bytes()) for file in ours}


def _head(file: Any) -> bytes:
    with open(file, "rb") as opened:
        return bytes(opened.read(64))


def own() -> dict[str, Trace]:
    """The traces in the files the reader chose, by name; what cannot be read is said.

    A file is read once. One that is refused changes nothing of what is on screen.
    """
    files = st.file_uploader(
        "Your own files: a ShardLab trace, torch.profiler traces, NCCL flight records (JSON, may "
        "be gzipped; never a pickle)",
        accept_multiple_files=True,
        key="files",
    )
    if not files:
        return {}
    together = False
    if len(files) > 1:
        asked = "Several files are"
        together = st.radio(asked, (TOGETHER, APART), horizontal=True, key="several") == TOGETHER
    groups = [files] if together else [[file] for file in files]
    found: dict[str, Trace] = {}
    for group in groups:
        trace = _read(group)
        if isinstance(trace, Trace):
            found[_unlike(found, _name(group))] = trace
        else:
            st.error(chrome.plain(f"{trace}."))
    return found


def _name(group: Sequence[Any]) -> str:
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{group[0].name}{more}"


def _unlike(found: Mapping[str, Trace], name: str) -> str:
    """The name, numbered if another file has it already."""
    number = 2
    while name in found:
        name, number = f"{name.removesuffix(f' ({number - 1})')} ({number})", number + 1
    return name


def _read(group: Sequence[Any]) -> Trace | TraceError:
    """The trace of these files; kept for the session, so that a rerun reads nothing again."""
    kept: dict[tuple[str, ...], Trace | TraceError] = st.session_state.setdefault("library", {})
    key = tuple(file.file_id for file in group)
    if key not in kept:
        with st.spinner("Reading the trace"):
            try:
                kept[key] = load_many([(file.name, file.getvalue()) for file in group])
            except TraceError as error:
                kept[key] = error
    return kept[key]
