"""Charts show the numbers they are given, with a badge, on light and dark paper."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from parallel_core import places
from parallel_core.data.overlap import Overlap
from parallel_core.hardware.topologies import topology
from parallel_core.importers.load import load
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views.buckets import bucket_lanes
from parallel_core.views.chart_frame import byte_ticks
from parallel_core.views.charts import (
    ledger_bars,
    loss_curve,
    memory_over_time,
    utilisation,
    wait_wire,
)
from parallel_core.views.exposure import exposure_curve
from parallel_core.views.frame import LINE
from parallel_core.views.machine_room import ping_pong
from parallel_core.views.palette import PHASES, TENSORS
from parallel_core.views.race import race
from parallel_core.views.roofline import Roof, roofline
from parallel_core.views.topology import topology_figure
from parallel_core.views.walls import ladder

MS = 1_000_000


def span(rank: int, op: str, begin: float, end: float, **more: Any) -> Span:
    lane = "comm" if more.get("peers") else "compute"
    begin, end = round(begin * MS), round(end * MS)
    facts = {"rank": rank, "step": 0, "index": 0, "op": op, "lane": lane, "t_post": begin}
    return Span(**facts | {"t_start": begin, "t_done": end} | more)


def run(kind: Kind = Kind.MEASURED) -> Trace:
    """Rank 0: F 0-4, then waits 4-9 and 1 ms of wire; rank 1: F 0-9; both idle at 10-20 or work."""
    return Trace(
        (
            span(0, "F", 0, 4, memory=1000),
            span(0, "all_reduce", 4, 10, peers=(0, 1), axis="dp", seq=0, memory=3000),
            span(1, "F", 0, 9, memory=2000),
            span(1, "all_reduce", 9, 10, peers=(0, 1), axis="dp", seq=0, memory=2500),
            span(1, "O", 10, 20, index=2, memory=500),
        ),
        Provenance(kind=kind, title="t", backend="gloo <b>2</b>", seed=3),
        2,
        tuple({"step": i, "loss": 5.0 - i, "tokens_per_s": 9} for i in range(3)),
    )


def figures(dark: bool, kind: Kind = Kind.MEASURED) -> dict[str, Any]:
    trace = run(kind)
    return {
        "loss": loss_curve({"dp=2": trace}, dark=dark),
        "ledger": ledger_bars([("params", 8, 8)], badge=trace.provenance.badge, dark=dark),
        "memory": memory_over_time(trace, dark=dark),
        "use": utilisation(trace, dark=dark),
        "wait": wait_wire(trace, dark=dark),
    }


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["loss", "ledger", "memory", "use", "wait"])
def test_every_chart_has_its_badge_a_transparent_paper_and_a_legend_below(name, dark):
    """Also: no template of its own, strict JSON, and tags of a stranger's trace are escaped."""
    figure = figures(dark)[name]
    texts = [note.text for note in figure.layout.annotations]
    assert "measured: gloo &lt;b&gt;2&lt;/b&gt;, seed 3" in texts
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.showlegend and figure.layout.legend.orientation == "h"
    assert (figure.layout.legend.yref, figure.layout.legend.yanchor) == ("container", "bottom")
    assert json.loads(figure.to_json())["layout"]["font"]["color"] == (
        "#F2F2F2" if dark else "#1B1E23"
    )


def test_the_loss_curve_is_the_metrics():
    """One line a run, told apart by more than colour; steps without a loss are left out."""
    other = replace(run(), metrics=({"step": 0, "loss": 4.0}, {"step": 1, "loss": None}))
    one, two = loss_curve({"a": run(), "b": other}).data
    assert (list(one.x), list(one.y)) == ([0, 1, 2], [5.0, 4.0, 3.0])
    assert (list(two.x), list(two.y)) == ([0], [4.0])
    assert one.marker.symbol != two.marker.symbol and one.line.color != two.line.color


def test_the_ledger_draws_predictions_dashed_over_measured_bars():
    """A dashed rectangle as wide as the prediction over a solid bar; the words name the gap."""
    rows = [("params", 4096, 4096), ("all_reduce", 2048, 1024), ("later", 512, None)]
    measured, swatch, predicted, words = ledger_bars(rows, badge="b").data
    assert swatch.marker.color not in measured.marker.color  # the legend means no single bar
    assert (
        list(measured.x) == [4096, 1024, 0] and measured.marker.color[0] == TENSORS["params"].light
    )
    assert measured.marker.color[1] == PHASES["collective"].light
    assert predicted.line.dash == "dash"
    outlines = [predicted.x[i : i + 5] for i in range(0, len(predicted.x), 6)]
    assert [max(outline) for outline in outlines] == [4096, 2048, 512]
    assert list(words.text) == [
        "parameters<br>4 KiB = predicted",
        "all_reduce<br>1 KiB, 1 KiB less",
        "later<br>predicted 512 B, not measured",
    ]
    assert set(words.x) == {0}  # above the bars: beside them a phone would cut the words off


def test_memory_marks_the_highest_peak():
    """Steps hold their value until the next span; the peak is rank 0's 3000 bytes at 10 ms."""
    figure = memory_over_time(run())
    zero, one = figure.data
    assert (list(zero.x), list(zero.y), zero.line.shape) == ([4.0, 10.0], [1000, 3000], "hv")
    assert list(one.y) == [2000, 2500, 500]
    peak = next(note for note in figure.layout.annotations if note.text.startswith("peak"))
    assert (peak.x, peak.y, peak.text) == (10.0, 3000, "peak: rank 0, 2.93 KiB")


def test_a_long_memory_line_is_thinned_but_keeps_its_peak():
    """20,000 spans make at most 1,500 points, the highest among them."""
    spans = [span(0, "F", i, i + 1, memory=(i * 7919) % 10007) for i in range(20_000)]
    (line,) = memory_over_time(replace(run(), spans=tuple(spans), world_size=1)).data
    assert len(line.y) <= 1500 and max(line.y) == max(s.memory for s in spans)


def test_utilisation_stacks_to_the_whole_window():
    """Of 20 ms: rank 0 computes 4 and stands in 6 of communication; rank 1 computes 19."""
    compute, comm, idle = utilisation(run()).data
    assert list(compute.x) == [20, 95] and list(comm.x) == [30, 5] and list(idle.x) == [50, 0]
    assert idle.marker.color == "rgba(0,0,0,0)"  # standing still has no fill


def test_wait_and_wire_per_rank_in_milliseconds():
    """Rank 0 waits 5 ms and both take 1 ms of wire; the hover says who was waited for."""
    wait, queue, wire = wait_wire(run()).data
    assert (list(wait.x), list(queue.x), list(wire.x)) == ([5, 0], [0, 0], [1, 1])
    assert (queue.name, queue.marker.pattern.shape) == ("link busy", ".")
    assert wait.marker.pattern.shape == "\\"
    assert wait.hovertext[1].endswith("the others waited 5 ms for rank 1")


def test_a_modelled_bar_cannot_pass_for_a_measured_one():
    """Its fill is another one, and its line is dashed."""
    for name, bar in (("use", 1), ("wait", 2)):
        solid, pale = (
            figures(False, kind)[name].data[bar] for kind in (Kind.MEASURED, Kind.MODELLED)
        )
        measured, modelled = solid.marker.color, pale.marker.color
        if name == "use":
            assert measured == PHASES["collective"].light
        assert measured != modelled
    assert loss_curve({"m": run(Kind.MODELLED)}).data[0].line.dash == "dash"


def test_many_ranks_are_cut_and_the_badge_says_so():
    """A chart of 64 rows still reads; more do not."""
    spans = tuple(span(rank, "F", 0, 1) for rank in range(200))
    figure = utilisation(replace(run(), spans=spans, world_size=200))
    assert len(figure.data[0].y) == 64
    assert "the first 64 ranks of 200" in figure.layout.annotations[0].text.replace("<br>", " ")


@pytest.mark.parametrize("dark", [False, True])
def test_an_empty_trace_draws_empty_charts(dark):
    """Nothing recorded is drawn as nothing, not as an error."""
    empty = Trace((), Provenance(kind=Kind.MEASURED), 1)
    for chart in (memory_over_time, utilisation, wait_wire):
        assert all(len(part.x or ()) == 0 for part in chart(empty, dark=dark).data)
    assert ledger_bars([], badge="", dark=dark).data[0].x == ()
    assert loss_curve({}, dark=dark).data == ()


@pytest.mark.parametrize("most", [1, 7, 900, 5000, 3 * 2**20, 7.7 * 2**30, 2**52])
def test_byte_axes_have_a_few_round_ticks(most):
    """Three to six, the first 0, none beyond the largest value."""
    ticks = list(byte_ticks(most)["tickvals"])
    assert ticks[0] == 0 and ticks[-1] <= most and 2 <= len(ticks) <= 6


LONG = "measured: a badge of many words " + "and what the run was made with " * 6


def long_badged() -> dict[str, Any]:
    """A figure of every module that draws, each under a badge of several lines."""
    recorded = places.assets() / "recorded_dp4.json"
    trace = load(recorded.name, recorded.read_bytes())
    law = Overlap(backward=0.1, wire=0.01, latency=0.001)
    return {
        "loss": loss_curve({"a": trace, "b": trace}),
        "ledger": ledger_bars([("params", 8, 8)], badge=LONG),
        "memory": memory_over_time(trace),
        "use": utilisation(trace),
        "wait": wait_wire(trace),
        "exposure": exposure_curve(law, [], badges=[LONG, LONG]),
        "buckets": bucket_lanes(trace),
        "race": race({"a": trace, "b": trace}),
        "roofline": roofline([Roof(name="a", peak=9.0, bandwidth=1.0)], [], badge=LONG),
        "ladder": ladder({"a": 1, "b": 1000}, badge=LONG),
        "ping": ping_pong([], badge=LONG),
        "topology": topology_figure(topology("ring:4"), badge=LONG),
    }


def test_the_top_margin_holds_every_line_of_the_badge():
    """A badge stands above the plot; with less room than its lines, the first is cut off."""
    for name, figure in long_badged().items():
        (badge,) = (note for note in figure.layout.annotations if note.borderpad == 3)
        lines = badge.text.split("<br>")
        assert len(lines) > 1 and max(len(line) for line in lines) <= 42, name
        room = figure.layout.margin.t - badge.yshift - 2 * badge.borderpad
        assert room >= len(lines) * LINE >= len(lines) * 1.3 * badge.font.size, name


def test_one_function_alone_sets_the_top_margin():
    """So what holds for the figures above holds for those that come."""
    views = sorted((places.assets().parent / "parallel_core" / "views").glob("*.py"))
    setting = re.compile(r"""margin\s*=\s*(?:dict\(|\{)[^})]*?(?:"t"|\bt\s*=)|margin_t""")
    assert [view.name for view in views if setting.search(view.read_text())] == ["frame.py"]
