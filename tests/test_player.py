"""The player's payload, its words, and where it is embedded: page, notebook, picture."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import player_traces
import pytest
from demo_trace import dp_step

from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Kind, Trace
from parallel_core.views.account import account
from parallel_core.views.causes import ordered
from parallel_core.views.player import frame_bench_html, html, payload, show
from parallel_core.views.svg import timeline

measured = player_traces.measured  # the fixture, for this file


def test_the_payload_is_the_trace(measured: Trace) -> None:
    """Undoing differences, names and segments gives back every span's numbers."""
    data = json.loads(json.dumps(payload(measured)))
    layer = data["layers"]["trace"]
    rows, n, columns = ordered(measured), layer["n"], layer["columns"]

    def column(name: str, *, sums: bool = False) -> list[int]:
        values = columns[name] if isinstance(columns[name], list) else [columns[name]] * n
        out: list[int] = []
        for value in values:
            out.append(value + (out[-1] if sums and out else 0))
        return out

    start = column("start", sums=True)
    assert start == [s.t_start - measured.start for s in rows]
    assert column("duration") == [s.duration for s in rows]
    assert column("memory", sums=True) == [s.memory for s in rows]
    assert [layer["ops"][op][0] for op in column("op")] == [s.op for s in rows]
    assert [layer["names"]["where"][w] for w in column("where")] == [s.where for s in rows]
    lanes = [
        (rank, layer["lanes"][lane])
        for rank, lane, count in layer["segments"]
        for _ in range(count)
    ]
    assert lanes == [(s.rank, s.lane) for s in rows]
    back = iter(layer["deps"])
    for row, count in enumerate(column("dep_count")):
        seen = {rows[row - next(back)].index for _ in range(count)}
        assert seen == set(rows[row].deps)


def test_each_layer_says_where_it_comes_from(measured: Trace) -> None:
    """Wall, own device and prediction each carry their own kind and badge."""
    own, model = dp_step(kind=Kind.REPLAYED), dp_step()
    layers = payload(measured, own=own, model=model)["layers"]
    assert [layers[k]["kind"] for k in ("trace", "own", "model")] == [
        "measured",
        "replayed",
        "modelled",
    ]
    assert layers["own"]["badge"] == own.provenance.badge


def test_a_run_that_grows_keeps_its_name_and_another_run_has_another(measured: Trace) -> None:
    """The player keeps its playhead exactly when the run is the same."""
    part = replace(measured, spans=measured.spans[:10])
    other = replace(measured, provenance=replace(measured.provenance, date="2026-01-01"))
    assert payload(part)["run"] == payload(measured)["run"] != payload(other)["run"]


def test_one_step_of_many_and_an_empty_trace(measured: Trace) -> None:
    """`step` keeps its spans alone; a run that has not begun has a payload too."""
    many = dp_step(kind=Kind.MEASURED, steps=3)
    layer = payload(many, step=1)["layers"]["trace"]
    assert layer["n"] * 3 == len(many.spans)
    nothing = replace(measured, spans=())
    assert payload(nothing)["layers"]["trace"]["n"] == 0
    assert "Nothing has run yet" in account(nothing)
    ET.fromstring(timeline(nothing))


def test_numbers_are_words_with_units() -> None:
    """Three figures, the unit of their size, halves rounded up as in the player."""
    assert [time_text(t) for t in (0, 999, 3_125_000, 14_166_000, 22 * 10**9)] == [
        "0 ns",
        "999 ns",
        "3.13 ms",
        "14.2 ms",
        "22 s",
    ]
    assert [bytes_text(b) for b in (100, 1536, 4 << 20)] == ["100 B", "1.50 KiB", "4 MiB"]


def test_the_account_names_makespan_ranks_wait_and_memory(measured: Trace) -> None:
    """What the picture shows, for those who do not see it."""
    text = account(measured)
    assert text.startswith("4 ranks, 1 step, 14.2 ms from the first start to the last end.")
    assert "Busiest: rank 2, computing 92 % of the time; idlest: rank 0, 56 %." in text
    assert "rank 2, which was in B layer1 mb0 (1.7 times its median)" in text
    assert "Memory peaks at 36 MiB on rank 0." in text
    assert text.endswith(measured.provenance.badge)


def test_the_page_cannot_be_broken_out_of(measured: Trace) -> None:
    """A title with markup stays text in the head, in the data and in the picture."""
    evil = "</script><script>alert(1)</script><!--"
    page = html(measured, title=evil)
    assert page.count("</script>") == 2
    assert "alert(1)</script>" not in page
    data = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.S)
    assert data and json.loads(data[1])["title"] == evil


def test_the_policy_allows_exactly_the_script_of_the_page(measured: Trace) -> None:
    """Nothing is fetched, nothing else runs: the hash is that of the inlined module."""
    page = html(measured)
    script = re.search(r'<script type="module">(.*?)</script>', page, re.S)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert not re.search(r'(src|href)="https?:', page)


def test_a_notebook_gets_the_player_over_its_picture(measured: Trace) -> None:
    """Untrusted, the frame is dropped and the image stays; as text, the account."""
    bundle = show(measured)._repr_mimebundle_()
    assert bundle["text/plain"] == account(measured)
    image = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', bundle["text/html"])
    assert image and base64.b64decode(image[1]).decode() == timeline(measured)
    assert 'sandbox="allow-scripts' in bundle["text/html"]
    assert "allow-same-origin" not in bundle["text/html"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", list(Kind))
def test_the_picture_is_valid_deterministic_and_says_its_kind(kind: Kind, dark: bool) -> None:
    """Same bytes twice; letters, hatches, badge and legend are there; only a model is dashed."""
    trace = dp_step(kind=kind, slow={2: 1.7})
    picture = timeline(trace, dark=dark)
    assert picture == timeline(trace, dark=dark)
    words = " ".join(ET.fromstring(picture).itertext())
    for word in (trace.provenance.badge, "rank 3", "F0", "waits: straggler", "forward"):
        assert word in words
    assert ('stroke-dasharray="4 2.5"' in picture) == (kind == Kind.MODELLED)


def test_a_picture_of_many_spans_stays_small() -> None:
    """20,000 spans in pixel columns: no more than a photograph."""
    page = frame_bench_html(20_000)
    picture = page.split("<noscript>")[1].split("</noscript>")[0]
    ET.fromstring(picture)
    assert len(picture) < 1_500_000


def test_a_widget_is_built_only_when_asked_for(measured: Trace) -> None:
    """The shell carries the module and the payload."""
    pytest.importorskip("anywidget", reason="pip install 'shardlab[notebooks]'")
    from parallel_core.views.widget import widget

    made = widget(measured, title="a step")
    assert made.payload["title"] == "a step"
    assert made.picked == {}
