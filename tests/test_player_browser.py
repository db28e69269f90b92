"""The player's JavaScript: it says what Python says, and does what its help says."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import player_traces
import pytest
from demo_trace import MS, dp_step

from parallel_core import places
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Trace
from parallel_core.views.account import wait_text
from parallel_core.views.causes import message_ids, ordered, waits
from parallel_core.views.player import frame_bench_html, html, payload, source

measured = player_traces.measured  # the fixture, for this file

NODE = shutil.which("node")


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
def test_another_nodes_clock_is_drawn_as_unsure_as_it_is(opened: Any) -> None:
    """Ink under its ranks' rows as long as the uncertainty, a shade before what crosses nodes; a
    legend entry; and under the pointer how it was measured. None of it on the first node."""
    page = opened(html(player_traces.two_nodes()), viewport={"width": 1280, "height": 800})
    canvas, rows = page.locator("canvas"), state(page)["rows"]
    left, right, wide = 84, 16, canvas.bounding_box()["width"]
    scale = (wide - left - right) / 100_000  # pixels a nanosecond

    def darker(y: float, start: float, end: float, than: int) -> float:
        """The pixels of a line of the canvas that are darker than that."""
        return page.evaluate(
            """([y, a, b, than]) => {
              const c = document.querySelector("canvas"), k = c.width / c.clientWidth;
              const line = [a * k, Math.round(y * k), (b - a) * k, 1].map(Math.floor);
              const { data } = c.getContext("2d").getImageData(...line);
              return data.filter((v, i) => i % 4 === 0 && v < than).length / k;
            }""",
            [y, start, end, than],
        )

    long, crossing = 2 * player_traces.UNSURE * scale, left + 60_000 * scale
    for rank, row in enumerate(rows):
        bar = darker(row["bottom"] + 4, left, left + long + 4, 100)
        shade = darker(row["lanes"][0] + 3, crossing - long, crossing - 2, 220)
        if rank < 2:
            assert bar == shade == 0
        else:
            assert abs(bar - long) < 3 and abs(shade - long / 2) < 4
    assert "to scale (node 1 ± 5 µs: ping-pong" in page.locator(".legend").inner_text()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + left + 5, box["y"] + rows[3]["bottom"] + 4)
    page.locator(".pop", has_text="rank 3 is on node 1: its times are ± 5 µs").wait_for()
    page.locator(".sl").focus()
    page.keyboard.press("l")  # among dependency steps there is no time to be unsure of
    assert "to scale" not in page.locator(".legend").inner_text()


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
