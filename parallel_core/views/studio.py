"""Programs and their traces -> the collective studio: its payload, a page, a Jupyter display.

One scene, or two on one clock: a race. The studio's JavaScript shares the player's numbers,
theme, style and hosts; both stand in one module, put together here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from parallel_core import places
from parallel_core.hardware.topology import Topology
from parallel_core.hardware.torus import Torus
from parallel_core.network import Hop
from parallel_core.program import Program, Value
from parallel_core.trace import Trace
from parallel_core.views import palette, player
from parallel_core.views.hues import hues
from parallel_core.views.page import page
from parallel_core.views.player import Shown
from parallel_core.views.scene import Slot, Told
from parallel_core.views.scene_words import account, race_words, sentences, tree_of, what
from parallel_core.views.svg import timeline

if TYPE_CHECKING:
    from parallel_core.terms import Term

VERSION = 1

LAYOUTS = ("ring", "mesh", "tree", "grid", "boxes", "fabric")
"""How the ranks may stand; `fabric` shows the switches of a topology that has some."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One run of a collective, and what is needed to draw it.

    `ends` is what the op promises (collectives.promise); `least` the bytes that the busiest rank
    must send whatever the algorithm, and the formula; `hops` what happened on the links of
    `topology`; `model` a prediction drawn over a measured run; `node` ranks share a box.
    """

    program: Program
    trace: Trace
    ends: Sequence[Mapping[Value, frozenset[Term]]]
    title: str = ""
    least: tuple[float, str] = (0.0, "")
    hops: tuple[Hop, ...] = ()
    topology: Topology | None = None
    model: Trace | None = None
    node: int = 2

    @property
    def told(self) -> Told:
        """The program and the trace, joined."""
        return Told(self.program, self.trace, self.ends, self.hops)


def payload(*scenes: Scene, layout: str = "ring", run: str = "") -> dict[str, Any]:
    """Everything the studio draws, ready for JSON: one scene, or two that race.

    A payload with the same `run` takes over the playhead of the one on screen.
    """
    if len(scenes) not in (1, 2):
        raise ValueError(f"the studio shows one scene or two, not {len(scenes)}")
    told = [scene.told for scene in scenes]
    names = [scene.title or scene.program.name for scene in scenes]
    return {
        "version": VERSION,
        "run": run or "/".join(names),
        "layout": layout,
        "palette": palette.as_data(),
        "race": race_words(names, told) if len(scenes) == 2 else "",
        "scenes": [_scene(scene, t) for scene, t in zip(scenes, told, strict=True)],
    }


def _scene(scene: Scene, told: Told) -> dict[str, Any]:
    places_of = [{slot: at for at, slot in enumerate(told.moments(rank))} for rank in told.ranks]
    colours = 1 + max((_colour(slot) for slots in places_of for slot in slots), default=0)
    return {
        "kind": scene.trace.kind.value,
        "badge": scene.trace.provenance.badge,
        "title": scene.title or scene.program.name,
        "account": account(told),
        "n": len(told.ranks),
        "span": scene.trace.makespan,
        "least": list(scene.least),
        "node": scene.node,
        "tree": list(tree_of(told)),
        "colours": hues(colours),
        "fabric": _fabric(scene.topology),
        "ranks": [_rank(told, rank) for rank in told.ranks],
        "sums": [
            [when, rank, places_of[rank][slot], text] for when, rank, slot, text in told.additions()
        ],
        "messages": _messages(told, places_of),
        "model": [] if scene.model is None else _outlines(scene),
    }


def _colour(slot: Slot) -> int:
    """Tiles are coloured by chunk; those that only move by whose they are."""
    _, kind, at = slot
    return at[1] if kind == "got" else at[0]


def _rank(told: Told, rank: int) -> dict[str, Any]:
    """A rank's slots in order, each with its moments, and what stands there to be added."""
    slots = told.moments(rank)
    order = list(slots)
    return {
        "slots": [
            {
                "row": slot[0],
                "label": _label(slot),
                "colour": _colour(slot),
                "wanted": told.wanted.get((0, *slot[1:]), 0),
                "moments": [
                    [when, held, small, int(right)] for when, held, small, right in moments
                ],
            }
            for slot, moments in slots.items()
        ],
        "standing": [
            [order.index(slot), since, until, told.whose(rank, value), told.small(rank, value)]
            for slot, since, until, value in told.standing(rank)
        ],
    }


def _label(slot: Slot) -> str:
    _, kind, at = slot
    if kind == "block":
        return f"{at[0]}→{at[1]}"
    return f"r{at[0]}" if kind == "here" else f"from {at[1]}" if kind == "got" else str(at[0])


def _messages(told: Told, places_of: Sequence[Mapping[Slot, int]]) -> list[list[Any]]:
    """Rows of: from, to, ready, begin, done, bytes, tiles, what, sentence, why, way."""
    rows = []
    for message, said in zip(told.messages, sentences(told), strict=True):
        tiles = []
        for value, came in zip(message.values, message.arrives, strict=True):
            slot = told.slot(message.target, came) or (0, "chunk", came.at[:1])
            held = told.whose(message.source, value)
            wanted = told.wanted.get((0, *slot[1:]), held)
            small = told.small(message.source, value)
            tiles.append([_colour(slot), held, wanted | held, small, _label(slot)])
        times = [message.ready, message.begin, message.done]
        words = [what(told, message), said, message.why]
        ends = [message.source, message.target]
        rows.append([*ends, *times, message.bytes, tiles, *words, [list(p) for p in message.way]])
    return rows


def _outlines(scene: Scene) -> list[list[int]]:
    """The predicted messages: from, begin, done."""
    assert scene.model is not None
    told = Told(scene.program, scene.model, scene.ends)
    return [[m.source, m.begin, m.done] for m in told.messages]


def _fabric(topology: Topology | None) -> dict[str, Any] | None:
    """The vertices beyond the ranks, the cables, and the shape of a grid."""
    if topology is None or topology.vertices > 200:
        return None
    return {
        "text": topology.text,
        "shape": list(topology.shape) if isinstance(topology, Torus) else [],
        "names": [topology.name(v) for v in range(topology.ranks, topology.vertices)],
        "links": sorted({(min(a, b), max(a, b)) for a, b in topology.links()}),
    }


@lru_cache(maxsize=1)
def source() -> str:
    """The studio's JavaScript: what it shares of the player's sections, itself, the hosts."""
    parts = re.split(r"^// -{10,} (?=\d+ )", player.source(), flags=re.MULTILINE)
    sections = {int(part.split(maxsplit=1)[0]): part for part in parts[1:]}
    own = (places.assets() / "studio.js").read_text(encoding="utf-8")
    shared = [f"// {sections[number]}" for number in (1, 3, 5, 7, 10)]
    return "\n".join([*shared, own, f"// {sections[12]}"])


def html(*scenes: Scene, layout: str = "ring") -> str:
    """A page that needs nothing else: the studio, its scenes, a picture without JavaScript."""
    data = payload(*scenes, layout=layout)
    first, title = scenes[0], data["scenes"][0]["title"]
    picture = timeline(first.trace, title=title)
    return page(f"{title} ({first.trace.kind.value})", source(), data, picture=picture)


def show(*scenes: Scene, layout: str = "ring") -> Shown:
    """The scene in a notebook: playable when trusted, a picture and a text account otherwise."""
    told = [scene.told for scene in scenes]
    text = "\n".join(line for one in told for line in [account(one), *sentences(one)])
    return Shown(
        page=html(*scenes, layout=layout),
        picture=timeline(scenes[0].trace, title=scenes[0].title),
        text=text,
        height=820 if len(scenes) == 1 else 1180,
    )
