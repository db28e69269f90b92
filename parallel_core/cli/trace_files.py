"""The files a command writes beside its report: a trace, and the player."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from parallel_core.cli.strict_json import strict_json
from parallel_core.trace import Trace


def open_folder(file: Path) -> None:
    """Find out before a run, not after it, whether `file` can be written there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write", str(file))


def write_trace(trace: Trace, file: Path) -> None:
    """One file for both readers: Perfetto takes traceEvents, our own pages the columns."""
    from parallel_core.exports import chrome_trace

    both = {**json.loads(trace.to_json()), **chrome_trace(trace)}
    file.write_text(strict_json(both), encoding="utf-8")


def write_player(trace: Trace, file: Path, title: str) -> None:
    """The player with the trace in it, one self-contained HTML file."""
    from parallel_core.views.player import html

    file.write_text(html(trace, title=title), encoding="utf-8")
