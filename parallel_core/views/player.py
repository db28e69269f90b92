"""Trace -> the player: its payload, a self-contained page, and a Jupyter display.

The payload is columns, one list a field, in the row order of `causes.ordered`. Three rules keep
it small: a column whose values are all equal is that one value; start, index, memory and step
are differences to the row before; words are numbers into `names`. Times are whole nanoseconds
since the trace's start.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from parallel_core import places
from parallel_core.program import Lane, Op
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views import palette
from parallel_core.views.account import account
from parallel_core.views.causes import Wait, message_ids, ordered, waits
from parallel_core.views.svg import SHORT, timeline

__all__ = ["Shown", "account", "frame_bench_html", "html", "payload", "show"]

VERSION = 1


def payload(
    trace: Trace,
    *,
    own: Trace | None = None,
    model: Trace | None = None,
    title: str = "",
    step: int | None = None,
    run: str = "",
) -> dict[str, Any]:
    """Everything the player draws, ready for JSON.

    `own` is the same run with a device per rank (the second clock), `model` the prediction drawn
    over it as outlines. `step` keeps one step. A payload with the same `run` grows the picture
    that is on screen; by default the run is named by its provenance.
    """
    shown = trace if step is None else trace.only(step)
    begun = {number: shown.only(number).start - shown.start for number in shown.steps[:1]}
    layers = {"trace": _layer(shown)}
    if own is not None:
        layers["own"] = _layer(own if step is None else own.only(step))
    if model is not None:
        predicted = model.only(step) if step in model.steps else model
        layers["model"] = _layer(predicted)
        layers["model"]["shift"] = begun.get(predicted.steps[0], 0) if predicted.steps else 0
    return {
        "version": VERSION,
        "run": run or _run_name(trace, step),
        "title": title or trace.provenance.title or "Trace",
        "world_size": trace.world_size,
        "start": shown.start,
        "palette": palette.as_data(),
        "layers": layers,
    }


def _run_name(trace: Trace, step: int | None) -> str:
    text = repr((trace.provenance, trace.world_size, step))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _layer(trace: Trace) -> dict[str, Any]:
    """One trace as columns."""
    rows, start = ordered(trace), trace.start
    ids = message_ids(rows)
    names = {key: _Names() for key in ("op", "where", "axis", "peers", "source")}
    lanes = _Names([Lane.COMPUTE.value])
    segments: list[list[int]] = []
    for span in rows:
        lane = lanes[span.lane]
        if not segments or segments[-1][:2] != [span.rank, lane]:
            segments.append([span.rank, lane, 0])
        segments[-1][2] += 1
    columns = {
        "op": [names["op"][span.op] for span in rows],
        "where": [names["where"][span.where] for span in rows],
        "axis": [names["axis"][span.axis or ""] for span in rows],
        "peers": [names["peers"][span.peers] for span in rows],
        "source": [names["source"][span.source] for span in rows],
        "mb": [-1 if span.mb is None else span.mb for span in rows],
        "message": ids,
        "bytes": [span.bytes for span in rows],
        "cpu": [span.cpu_ns for span in rows],
        "start": _steps(span.t_start - start for span in rows),
        "duration": [span.duration for span in rows],
        "lead": [span.t_start - span.t_post for span in rows],
        "index": _steps(span.index for span in rows),
        "memory": _steps(span.memory for span in rows),
        "step": _steps(span.step for span in rows),
    }
    deps = _dependencies(rows)
    columns["dep_count"] = [len(back) for back in deps]
    return {
        "kind": trace.kind.value,
        "badge": trace.provenance.badge,
        "account": account(trace),
        "n": len(rows),
        "span": trace.makespan,
        "lanes": lanes.words,
        "segments": segments,
        "ops": [[op, palette.phase_of(op), SHORT.get(op, op)] for op in names.pop("op").words],
        "names": {key: found.words for key, found in names.items()},
        "columns": {key: _flat(values) for key, values in columns.items()},
        "deps": [back for some in deps for back in some],
        "waits": _wait_columns(waits(rows, ids), start),
    }


class _Names:
    """Words and their numbers, in order of first use."""

    def __init__(self, words: Sequence[Any] = ()) -> None:
        self.numbers: dict[Any, int] = {word: number for number, word in enumerate(words)}

    def __getitem__(self, word: Any) -> int:
        return self.numbers.setdefault(word, len(self.numbers))

    @property
    def words(self) -> list[Any]:
        return list(self.numbers)


def _steps(values: Iterable[int]) -> list[int]:
    """Each value's difference to the one before."""
    out, last = [], 0
    for value in values:
        out.append(value - last)
        last = value
    return out


def _flat(values: list[int]) -> list[int] | int:
    if len(values) > 1 and all(value == values[0] for value in values):
        return values[0]
    return values


def _dependencies(rows: Sequence[Span]) -> list[list[int]]:
    """Per row how far back (in rows, negative is ahead) each of its inputs stands."""
    place = {(span.rank, span.step, span.index): row for row, span in enumerate(rows)}
    found = []
    for row, span in enumerate(rows):
        inputs = (place.get((span.rank, span.step, index)) for index in span.deps)
        found.append([row - other for other in inputs if other is not None and other != row])
    return found


def _wait_columns(found: Sequence[Wait], start: int) -> dict[str, list[Any]]:
    names = ("row", "length", "late", "queue", "why", "message", "culprit", "doing", "slow")
    columns = {name: [getattr(wait, name) for wait in found] for name in names}
    return columns | {"start": [wait.start - start for wait in found]}


@lru_cache(maxsize=1)
def source() -> str:
    """The player's JavaScript."""
    return (places.assets() / "player.js").read_text(encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; \
base-uri 'none'; form-action 'none'">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
html {{ background: #fff; color: #16202c }}
body {{ margin: 0; padding: clamp(12px, 2.5vw, 32px); max-width: 1440px; margin-inline: auto }}
noscript svg {{ max-width: 100%; height: auto }}
@media (prefers-color-scheme: dark) {{ html {{ background: #12161c; color: #e6eaf0 }} }}
</style></head>
<body><main id="player"></main>
<noscript>{picture}</noscript>
<script type="application/json" id="payload">{data}</script>
<script type="module">{script}</script>
</body></html>
"""

_START = """
const data = document.getElementById("payload").textContent;
mount(document.getElementById("player"), JSON.parse(data), { heading: 1 });
"""


def html(
    trace: Trace,
    *,
    own: Trace | None = None,
    model: Trace | None = None,
    title: str = "",
    step: int | None = None,
) -> str:
    """A page that needs nothing else: the player, the trace, and a picture without JavaScript."""
    data = payload(trace, own=own, model=model, title=title, step=step)
    script = source() + _START
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _PAGE.format(
        title=markup.escape(f"{data['title']} ({trace.kind.value})"),
        digest=digest,
        picture=timeline(trace, step=step, title=data["title"]),
        data=_script_safe(data),
        script=script,
    )


def _script_safe(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(frozen=True)
class Shown:
    """What `show` returns: Jupyter draws it, print gives its account."""

    page: str
    picture: str
    text: str
    height: int

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """The player over its own picture: where a notebook is not trusted (or exported without
        scripts) the frame is dropped and the picture stays."""
        image = base64.b64encode(self.picture.encode()).decode()
        alt = markup.escape(self.text, quote=True)
        frame = (
            f'<div style="position:relative;min-height:{self.height}px">'
            f'<img alt="{alt}" style="max-width:100%" src="data:image/svg+xml;base64,{image}">'
            '<iframe sandbox="allow-scripts allow-downloads" title="timeline" style="position:'
            'absolute;inset:0;width:100%;height:100%;border:0;background:#fff;color-scheme:light" '
            f'srcdoc="{markup.escape(self.page, quote=True)}"></iframe></div>'
        )
        return {"text/html": frame, "text/plain": self.text}


def show(
    trace: Trace,
    *,
    own: Trace | None = None,
    model: Trace | None = None,
    title: str = "",
    step: int | None = None,
) -> Shown:
    """The trace in a notebook: playable when trusted, a picture and a text account otherwise."""
    picture = timeline(trace, step=step, title=title)
    shown = trace if step is None else trace.only(step)
    page = html(trace, own=own, model=model, title=title, step=step)
    height = min(900, 76 * trace.world_size) + 340  # the player's rows, and what is around them
    return Shown(page=page, picture=picture, text=account(shown), height=height)


def frame_bench_html(n_spans: int, *, ranks: int = 64) -> str:
    """A page with a made-up trace of about `n_spans` spans; `__shardlab_player.bench()` times it.

    Each rank alternates F and B with a collective every eighth span, on a fixed pattern.
    """
    spans = []
    for rank in range(ranks):
        clock = rank * 500
        for index in range(max(1, n_spans // ranks)):
            last, length = index % 8 == 7, 1_000 + 700 * ((index * 7 + rank * 3) % 5)
            spans.append(
                Span(
                    rank=rank,
                    step=0,
                    index=index,
                    lane=(Lane.COMM if last else Lane.COMPUTE).value,
                    op=(Op.ALL_REDUCE if last else Op.F if index % 3 == 0 else Op.B).value,
                    where=f"layer{index % 4}",
                    mb=None if last else index % 8,
                    t_post=clock,
                    t_start=clock,
                    t_done=clock + length,
                    bytes=4096 if last else 0,
                    axis="dp" if last else None,
                    peers=tuple(range(ranks)) if last else (),
                    seq=index if last else None,
                    memory=1_000_000 + 1000 * (index % 50),
                )
            )
            clock += length
    made_up = Provenance(kind=Kind.MODELLED, title="frame bench", notes=("a made-up trace",))
    return html(Trace(tuple(spans), made_up, ranks))
