"""Trace -> the player: its payload, a self-contained page, and a Jupyter display.

One trace, or a race: several stacked on one time axis under one cursor. columns.py says how spans
travel, reading.py what their seconds and bytes may stand for.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Unpack

from parallel_core import places
from parallel_core.program import Lane, Op
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views import palette
from parallel_core.views.account import account
from parallel_core.views.columns import Deck, layer
from parallel_core.views.outcome import result, typical_step
from parallel_core.views.page import page
from parallel_core.views.reading import Bubbles, Reading
from parallel_core.views.svg import stacked, timeline

__all__ = [
    "Shown",
    "account",
    "frame_bench_html",
    "html",
    "payload",
    "race_html",
    "race_payload",
    "show",
    "show_race",
    "source",
]

VERSION = 2


def payload(
    trace: Trace,
    *,
    own: Trace | None = None,
    model: Trace | None = None,
    title: str = "",
    step: int | None = None,
    run: str = "",
    **reading: Unpack[Reading],
) -> dict[str, Any]:
    """Everything the player draws, ready for JSON.

    `own` is the same run with a device per rank (the second clock), `model` the prediction drawn
    over it as outlines. `step` keeps one step. A payload with the same `run` grows the picture
    that is on screen; by default the run is named by its provenance.
    """
    shown = trace if step is None else trace.only(step)
    begun = {number: shown.only(number).start - shown.start for number in shown.steps[:1]}
    layers = {"trace": layer([Deck(trace=shown, bubbles=_bubbles(reading))], reading)}
    if own is not None:
        layers["own"] = layer([Deck(trace=own if step is None else own.only(step))], reading)
    if model is not None:
        predicted = model.only(step) if step in model.steps else model
        layers["model"] = layer([Deck(trace=predicted)], reading)
        layers["model"]["shift"] = begun.get(predicted.steps[0], 0) if predicted.steps else 0
    return {
        "version": VERSION,
        "run": run or _run_name(trace.provenance, trace.world_size, step),
        "title": title or trace.provenance.title or "Trace",
        "world_size": trace.world_size,
        "start": shown.start,
        "palette": palette.as_data(),
        "colours": reading.get("colours", "tested"),
        "cap": reading.get("cap", 0),
        "layers": layers,
    }


def race_payload(
    runs: Mapping[str, Trace],
    *,
    title: str = "",
    run: str = "",
    called: bool = True,
    **reading: Unpack[Reading],
) -> dict[str, Any]:
    """Several traces stacked on one time axis, each from its own start; the first ends first.

    Of a trace with several steps the typical one runs. `bubbles` is one a name. Unless `called`
    (race.Contest says whether), nobody is first. Raises ValueError for fewer than two traces.
    """
    if len(runs) < 2:
        raise ValueError(f"a race has two traces or more, not {len(runs)}; name them: {{name: t}}")
    racing = _racing(runs)
    decks, first = [], 0
    for name, trace in racing.items():
        decks.append(Deck(trace=trace, first=first, name=name, bubbles=_bubbles(reading, name)))
        first += trace.world_size
    says = result(racing, reading, called=called) + "."
    return {
        "version": VERSION,
        "run": run or _run_name(*(trace.provenance for trace in runs.values()), *runs),
        "title": title or " against ".join(runs),
        "world_size": first,
        "start": 0,
        "palette": palette.as_data(),
        "colours": reading.get("colours", "tested"),
        "cap": reading.get("cap", 0),
        "race": says,
        "called": called,
        "layers": {"trace": layer(decks, reading, words=_race_words(says, racing, reading))},
    }


def _racing(runs: Mapping[str, Trace]) -> dict[str, Trace]:
    return {
        name: trace.only(typical_step(trace)) if len(trace.steps) > 1 else trace
        for name, trace in runs.items()
    }


def _race_words(says: str, runs: Mapping[str, Trace], reading: Reading) -> str:
    """The result, then each run's own account."""
    each = [f"{name}: {account(trace, reading=reading)}" for name, trace in runs.items()]
    return " ".join([says, *each])


def _bubbles(reading: Reading, name: str = "") -> Bubbles | None:
    found = reading.get("bubbles")
    return found.get(name) if isinstance(found, dict) else found


def _run_name(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def source() -> str:
    """The player's JavaScript: the files of assets/player as one module, in order of name."""
    files = sorted((places.assets() / "player").glob("*.js"))
    return "".join(file.read_text(encoding="utf-8") for file in files)


def html(
    trace: Trace,
    *,
    own: Trace | None = None,
    model: Trace | None = None,
    title: str = "",
    step: int | None = None,
    **reading: Unpack[Reading],
) -> str:
    """A page that needs nothing else: the player, the trace, and a picture without JavaScript."""
    data = payload(trace, own=own, model=model, title=title, step=step, **reading)
    return page(
        f"{data['title']} ({trace.kind.value})",
        source(),
        data,
        picture=timeline(trace, step=step, title=data["title"], **reading),
    )


def race_html(
    runs: Mapping[str, Trace], *, title: str = "", called: bool = True, **reading: Unpack[Reading]
) -> str:
    """The same of a race."""
    data = race_payload(runs, title=title, called=called, **reading)
    picture = stacked(_racing(runs), title=data["title"], called=called, **reading)
    return page(data["title"], source(), data, picture=picture)


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
    **reading: Unpack[Reading],
) -> Shown:
    """The trace in a notebook: playable when trusted, a picture and a text account otherwise."""
    shown = trace if step is None else trace.only(step)
    return Shown(
        page=html(trace, own=own, model=model, title=title, step=step, **reading),
        picture=timeline(trace, step=step, title=title, **reading),
        text=account(shown, reading=reading),
        height=_height(trace.world_size),
    )


def show_race(
    runs: Mapping[str, Trace], *, title: str = "", called: bool = True, **reading: Unpack[Reading]
) -> Shown:
    """Traces by name against each other, on one time axis: `show_race({"1F1B": a, "ZB-H1": b})`.

    The account says who is first and by how much, in time and in memory. Of live runs only a
    Contest can tell whether the machine held still: `show_race(both.own, called=both.called)`.
    """
    racing = _racing(runs)
    says = result(racing, reading, called=called) + "."
    return Shown(
        page=race_html(runs, title=title, called=called, **reading),
        picture=stacked(racing, title=title, called=called, **reading),
        text=_race_words(says, racing, reading),
        height=_height(sum(trace.world_size for trace in runs.values())) + 60,
    )


def _height(ranks: int) -> int:
    """The player's rows, and what is around them, in pixels."""
    return min(900, 76 * ranks) + 340


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
