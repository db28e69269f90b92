"""The player is fed the truth: causes, columns, words; its page is safe, small and readable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from demo_trace import MS, dp_step

from parallel_core import places
from parallel_core.analysis.cause import Cause
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.quantities import bytes_text, time_text
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views.account import account, wait_text
from parallel_core.views.causes import message_ids, ordered, waits
from parallel_core.views.player import frame_bench_html, html, payload, show, source
from parallel_core.views.svg import timeline

NODE = shutil.which("node")


@pytest.fixture(scope="module")
def measured() -> Trace:
    """A step in which rank 2 is slow, so that all others wait for it."""
    return dp_step(kind=Kind.MEASURED, slow={2: 1.7})


def span(rank: int, op: str, start: int, done: int, **more: Any) -> Span:
    """A span posted when it starts, on the lane its op usually has."""
    lane = "compute" if op in {"F", "B", "wait"} else "comm"
    given: dict[str, Any] = {"step": 0, "index": 0, "lane": lane, "t_post": start} | more
    return Span(rank=rank, op=op, t_start=start, t_done=done, **given)


def trace_of(*spans: Span, ranks: int = 2) -> Trace:
    return Trace(spans, Provenance(kind=Kind.MODELLED, title="by hand"), ranks)


# ---- causes


def test_the_last_to_post_is_the_culprit_and_it_says_what_it_was_doing(measured: Trace) -> None:
    """Every wait of a fast rank names rank 2, in a backward, as a straggler."""
    rows = ordered(measured)
    found = waits(rows, message_ids(rows))
    still = [w for w in found if rows[w.row].op == "wait" and rows[w.row].rank != 2]
    assert len(still) == 3
    for wait in still:
        assert rows[wait.culprit].rank == 2
        assert rows[wait.doing].rank == 2 and rows[wait.doing].op == "B"
        assert wait.why == Cause.STRAGGLER and wait.slow == 1.7
        assert wait.late + wait.queue + wait.wire == wait.length


def test_a_late_rank_without_a_core_is_told_from_a_slow_one(measured: Trace) -> None:
    """Where the culprit's op held a core for a part of its time only, the sentence says so."""
    starved = replace(
        measured, spans=tuple(replace(s, cpu_ns=s.cpu_ns // 4) for s in measured.spans)
    )
    assert "(1.7 times its median, on a core for 25 % of it)" in account(starved)
    assert "on a core" not in account(measured)


def test_a_culprit_between_two_ops_is_said_to_be_there() -> None:
    """Its ops fill less than half of what others waited: no op is blamed."""
    meet = {"axis": "dp", "peers": (0, 1), "seq": 0}
    late = [span(1, "F", 0, 10), span(1, "F", 20, 30, index=1), span(1, "F", 96, 99, index=2)]
    rows = ordered(
        trace_of(
            span(0, "all_reduce", 0, 110, **meet), *late, span(1, "all_reduce", 100, 110, **meet)
        )
    )
    (wait,) = waits(rows, message_ids(rows))
    assert wait_text(wait, rows) == "waits 100 ns for rank 1, which was between two ops"


def test_a_message_with_an_end_missing_blames_nobody() -> None:
    """Rank 2's end is not in the trace yet: it may be the one that comes last."""
    meet = {"axis": "dp", "peers": (0, 1, 2), "seq": 0}
    ends = (span(0, "all_reduce", 0, 50, **meet), span(1, "all_reduce", 40, 50, **meet))
    rows = ordered(trace_of(*ends, ranks=3))
    assert waits(rows, message_ids(rows)) == []


def test_a_rank_that_is_last_waits_for_the_wire_alone(measured: Trace) -> None:
    """Rank 2 keeps everybody waiting, so its own wait is the message on its way."""
    rows = ordered(measured)
    (own,) = [
        w
        for w in waits(rows, message_ids(rows))
        if rows[w.row].op == "wait" and rows[w.row].rank == 2
    ]
    assert own.why == Cause.WIRE and own.late == 0
    assert wait_text(own, rows) == "waits 1.10 ms for all_reduce bucket3, on the wire"


@pytest.mark.parametrize(
    ("send", "receive", "why"),
    [((40, 50), (10, 50), Cause.LATE_SENDER), ((10, 50), (40, 50), Cause.LATE_RECEIVER)],
)
def test_a_late_sender_and_a_late_receiver_are_told_apart(
    send: tuple[int, int], receive: tuple[int, int], why: Cause
) -> None:
    """The end that was posted first waits for the other, on whichever side it is."""
    rows = ordered(
        trace_of(
            span(0, "send", *send, peers=(0, 1), seq=0),
            span(1, "recv", *receive, peers=(0, 1), seq=0),
        )
    )
    (wait,) = waits(rows, message_ids(rows))
    assert (wait.why, wait.length) == (why, 30)


def test_a_buffered_send_does_not_wait_for_its_receiver() -> None:
    """It was done before the receive was posted."""
    send = span(0, "send", 10, 20, peers=(0, 1), seq=0)
    receive = span(1, "recv", 40, 45, peers=(0, 1), seq=0)
    rows = ordered(trace_of(send, receive))
    assert waits(rows, message_ids(rows)) == []


def test_the_two_directions_of_a_pair_are_two_messages() -> None:
    """0 -> 1 and 1 -> 0 with the same number do not meet."""
    rows = ordered(
        trace_of(
            span(0, "send", 0, 5, peers=(0, 1), seq=0),
            span(1, "recv", 0, 5, peers=(0, 1), seq=0),
            span(1, "send", 5, 9, peers=(1, 0), seq=0),
            span(0, "recv", 5, 9, peers=(1, 0), seq=0),
        )
    )
    ids = message_ids(rows)
    pairs = sorted((ids[row], rows[row].rank, rows[row].op) for row in range(4))
    assert pairs == [(0, 0, "send"), (0, 1, "recv"), (1, 0, "recv"), (1, 1, "send")]


def test_a_busy_link_is_a_cause_of_its_own() -> None:
    """All ends were posted long ago, but an earlier message held the lane."""
    spans = []
    for rank in (0, 1):
        meet = {"axis": "dp", "peers": (0, 1)}
        spans += [
            span(rank, "all_reduce", 0, 80, index=0, seq=0, **meet),
            span(rank, "all_reduce", 80, 90, index=1, seq=1, t_post=10, **meet),
            span(rank, "F", 0, 20, index=2),
            span(rank, "wait", 20, 90, index=3, deps=(1,)),
        ]
    rows = ordered(trace_of(*spans))
    found = [w for w in waits(rows, message_ids(rows)) if rows[w.row].op == "wait"]
    assert [(w.why, w.late, w.queue, w.wire) for w in found] == [(Cause.LINK_BUSY, 0, 60, 10)] * 2


def test_a_first_gap_is_fill_and_an_unexplained_gap_is_no_wait() -> None:
    """A stage that has had nothing yet is filling; a pause that no message explains is not told."""
    rows = ordered(
        trace_of(
            span(0, "F", 0, 10, index=0),
            span(0, "send", 10, 20, index=1, peers=(0, 1), seq=0, deps=(0,)),
            span(1, "recv", 10, 20, index=0, peers=(0, 1), seq=0),
            span(1, "F", 20, 30, index=1, deps=(0,)),
            span(1, "F", 50, 60, index=2, deps=(1,)),
        )
    )
    found = waits(rows, message_ids(rows))
    assert [(w.why, w.start, w.end) for w in found] == [(Cause.FILL, 0, 20)]


# ---- payload


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


# ---- words


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


# ---- page, notebook, picture


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


# ---- JavaScript


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
def test_the_players_own_tests_pass() -> None:
    """`node --test`, on the module's pure functions."""
    done = subprocess.run(
        [str(NODE), "--test", str(places.assets() / "player.test.mjs")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
def test_python_and_javascript_say_the_same_of_ranks_that_wait_for_each_other(
    tmp_path: Path,
) -> None:
    """In a pipeline with a slow stage: the chain, and the straggler at its end."""
    order = SCHEDULES["1f1b"].of(Job(p=4, m=8))
    times = Times.even(4, slow={2: 1.5}, tcomm=0.25)
    said = same_words(simulate(lower(order), PipelineCost.of(order, times)), tmp_path)
    last = "in the end for rank 2, which was in B stage2 mb0 (1.5 times its median)"
    assert any(f"for rank 1, which was waiting itself, {last}" in text for text in said)


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
@pytest.mark.parametrize("slow", [{2: 1.7}, {1: 1.2, 3: 1.3}, {}, None])
def test_python_and_javascript_say_the_same_about_every_wait(
    slow: dict[int, float] | None, tmp_path: Path
) -> None:
    """One set of sentences: the account's and the popover's; also with gaps between the ops."""
    trace = dp_step(kind=Kind.MEASURED, slow={2: 1.7} if slow is None else slow)
    if slow is None:
        thin = {"F", "B"}
        trace = replace(
            trace,
            spans=tuple(
                replace(s, t_done=s.t_start + s.duration // 4) if s.op in thin else s
                for s in trace.spans
            ),
        )
    said = same_words(trace, tmp_path)
    assert (slow is None) == any("which was between two ops" in text for text in said)


def same_words(trace: Trace, tmp_path: Path) -> list[str]:
    """What Python says of every wait, once node has said the same."""
    rows = ordered(trace)
    want = [wait_text(w, rows) for w in waits(rows, message_ids(rows))]
    (tmp_path / "player.mjs").write_text(source())
    layer = payload(trace)["layers"]["trace"] | {"world_size": trace.world_size}
    (tmp_path / "layer.json").write_text(json.dumps(layer))
    (tmp_path / "say.mjs").write_text(
        'import { decode, waitText } from "./player.mjs"; import { readFileSync } from "node:fs";'
        'const t = decode(JSON.parse(readFileSync("layer.json")));'
        "console.log(JSON.stringify(t.waits.map((w) => waitText(t, w))));"
    )
    done = subprocess.run(
        [str(NODE), "say.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == want and want
    return want


# ---- a real browser


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Any:
    """Open a page's text in a fresh context; every console error fails the test."""
    contexts, errors = [], []

    def open_(text: str, **options: Any) -> Any:
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


def state(page: Any) -> dict[str, Any]:
    return page.evaluate("__shardlab_player.state()")


@pytest.mark.browser
def test_the_keys_do_what_the_help_says(opened: Any, measured: Trace) -> None:
    """Steps, strange events, views and both clocks, without a mouse."""
    page = opened(html(measured, own=dp_step(kind=Kind.REPLAYED), model=dp_step()))
    page.locator(".sl").focus()
    badge = page.locator(".badge")
    assert state(page)["x"] == state(page)["end"] and not state(page)["playing"]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert state(page)["x"] == 0.6 * MS
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_text("36 MiB live after it").wait_for()
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_text("for rank 2, which was in B").first.wait_for()
    assert badge.text_content() == measured.provenance.badge
    page.keyboard.press("w")
    assert badge.text_content().startswith("replayed: ")
    for key, name, value in [("l", "axis", "steps"), ("c", "path", True), ("m", "model", False)]:
        page.keyboard.press(key)
        assert state(page)[name] == value
    page.keyboard.press("+")
    seen = state(page)
    assert seen["view"]["b"] - seen["view"]["a"] < seen["end"]
    page.keyboard.press("?")
    assert page.locator(".help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".help").is_hidden()


@pytest.mark.browser
def test_hovering_tells_the_cause_and_dragging_scrubs(opened: Any, measured: Trace) -> None:
    """The popover of a waiting rank names who it waits for; a drag moves the playhead."""
    page = opened(html(measured), viewport={"width": 1280, "height": 800})
    canvas = page.locator("canvas")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 62)
    page.locator(".pop", has_text="for rank 2, which was in B").wait_for()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 62, steps=4)
    page.mouse.up()
    assert 0 < state(page)["x"] < state(page)["end"]


@pytest.mark.browser
def test_playing_ends_at_the_end_and_moves_by_events_without_motion(
    opened: Any, measured: Trace
) -> None:
    """With prefers-reduced-motion the playhead only ever stands on an event."""
    page = opened(html(measured), reduced_motion="reduce")
    page.get_by_role("button", name="play").click()
    page.locator(".now", has_text="0.60 ms").wait_for()
    starts = {s.t_start - measured.start for s in measured.spans}
    assert state(page)["x"] in starts
    page.evaluate("__shardlab_player.seek(__shardlab_player.state().end - 1)")
    page.get_by_role("button", name="play").wait_for()
    assert state(page)["x"] == state(page)["end"]


@pytest.mark.browser
def test_a_live_run_grows_and_keeps_the_playhead(opened: Any, measured: Trace) -> None:
    """At the end it follows the end; anywhere else it stays."""
    part = replace(measured, spans=tuple(s for s in measured.spans if s.t_done < 8 * MS))
    page = opened(html(part))
    before = state(page)
    page.evaluate("(p) => __shardlab_player.grow(p)", payload(measured))
    after = state(page)
    assert before["end"] < after["end"] == after["x"]
    page.evaluate("__shardlab_player.seek(3e6)")
    page.evaluate("(p) => __shardlab_player.update(p)", payload(measured))
    assert state(page)["x"] == 3e6


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_sees_it_all_and_no_accessibility_rule_is_broken(
    opened: Any, measured: Trace, scheme: str
) -> None:
    """390 pixels wide, nothing sticks out; axe finds nothing, words and table opened."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="shardlab[test]")
    page = opened(
        html(measured, own=dp_step(kind=Kind.REPLAYED), model=dp_step()),
        viewport={"width": 390, "height": 844},
        color_scheme=scheme,
    )
    page.get_by_text("In words and as a table").click()
    page.locator("table").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


@pytest.mark.browser
def test_a_hundred_thousand_spans_scrub_in_a_frame(opened: Any) -> None:
    """Drawing one frame takes well under 16 ms, however long the trace."""
    page = opened(frame_bench_html(100_000), viewport={"width": 1280, "height": 900})
    measured = page.evaluate("__shardlab_player.bench(60)")
    assert measured["spans"] > 99_000
    assert measured["draw_ms"]["p50"] < 16


@pytest.mark.browser
@pytest.mark.parametrize("host", ["streamlit", "anywidget"])
def test_the_other_hosts_get_the_same_player(opened: Any, measured: Trace, host: str) -> None:
    """Streamlit's call in a shadow root, and anywidget's render: drawn, updated, cleaned up."""
    part = replace(measured, spans=measured.spans[:20])
    streamlit = """
      const at = document.createElement("div"); document.body.append(at);
      const parentElement = at.attachShadow({mode: "open"});
      const call = (data) => player({parentElement, data, setTriggerValue: () => {}});
      let clean = call(first); const one = __shardlab_player; one.seek(1e6);
      clean(); clean = call(second);
      const same = one === __shardlab_player, x = one.state().x, spans = one.state().spans;
      clean(); await new Promise((done) => setTimeout(done, 400));
      return {same, x, spans, left: parentElement.childElementCount};"""
    anywidget = """
      const el = document.createElement("div"); document.body.append(el);
      const on = {}, held = {payload: first};
      const model = {get: (k) => held[k], set() {}, save_changes() {}, off() {},
                     on: (name, f) => { on[name] = f; }};
      const clean = player().render({model, el}); const one = __shardlab_player; one.seek(1e6);
      held.payload = second; on["change:payload"]();
      const same = one === __shardlab_player, x = one.state().x, spans = one.state().spans;
      clean(); return {same, x, spans, left: el.childElementCount};"""
    page = opened("<!doctype html><title>host</title><link rel=icon href='data:,'><body>")
    script = base64.b64encode(source().encode()).decode()
    body = streamlit if host == "streamlit" else anywidget
    result = page.evaluate(
        f"async ([first, second]) => {{ const player = (await import("
        f"'data:text/javascript;base64,{script}')).default; {body} }}",
        [payload(part), payload(measured)],
    )
    assert result == {"same": True, "x": 1e6, "spans": len(measured.spans), "left": 0}
