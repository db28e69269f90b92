"""The app in a real Chromium: no error, nothing from elsewhere, readable, reachable by keyboard."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from browser import start_app, stop_app
from demo_trace import dp_step
from pages import in_looks

from parallel_core import places
from parallel_core.trace import Trace

pytestmark = pytest.mark.browser
PAGES = {
    "/": "One model, several processes",
    "/walls": "Walls",
    "/traces": "Trace inspector",
    "/data-parallel": "Data parallel",
    "/machine-room": "Machine room",
    "/collectives": "Collective studio",
    "/pipelines": "Pipeline arena",
    "/shards": "Shard bench",
    "/loom": "Tensor loom",
    "/memory": "Memory river",
    "/context": "Context ring",
}
EXISTING = {
    path: heading
    for path, heading in PAGES.items()
    if path != "/data-parallel" or (places.app() / "screens" / "data_parallel.py").is_file()
}
STREAMLITS_OWN = {
    "list",  # the grouped navigation in its sidebar
    "listitem",
    "presentation-role-conflict",  # the drop zone of its uploader
}


@in_looks((1280, 2400, "light"), (1280, 2400, "dark"), (390, 3000, "light"))
def test_the_pages_are_clean(tab):
    """No console error, no policy violation, no stranger asked, no sideways scroll, axe content."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for path, heading in EXISTING.items():
        page = tab.open(path, heading)
        page.wait_for_timeout(400)  # charts and players draw after the script has ended
        wide = page.evaluate(
            """() => [...document.querySelectorAll('html, [data-testid=stMain]')]
                .map(e => e.scrollWidth - e.clientWidth)"""
        )
        found = axe.Axe().run(page).response["violations"]
        ours = {v["id"]: [n["html"][:160] for n in v["nodes"]] for v in found}
        assert {n: nodes for n, nodes in ours.items() if n not in STREAMLITS_OWN} == {}, path
        assert max(wide) <= 0, path
        assert tab.errors == []
        assert tab.strangers() == []


def test_the_recorded_run_is_there_at_once(tab):
    """On a warm page the player is drawn within a second and a half of opening, on two cores."""
    tab.open("/", EXISTING["/"])
    began = time.monotonic()
    tab.page.reload()
    tab.page.locator("canvas").first.wait_for()
    assert time.monotonic() - began < 1.5


def test_the_keyboard_reaches_and_drives_the_player(tab):
    """Tab alone leads into the player; its keys then move the playhead."""
    page = tab.open("/", EXISTING["/"])
    inside = "() => Boolean(document.activeElement.shadowRoot?.activeElement)"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(inside):
            break
    assert page.evaluate(inside)
    page.keyboard.press("Home")
    assert page.evaluate("__shardlab_player.state().x") == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate("__shardlab_player.state().x") > 0


def test_a_run_grows_survives_a_reload_and_ends_with_the_proof(tab):
    """Run with real processes; the timeline grows; ?job= takes a reload back to it."""
    page = tab.open("/?dp=2&steps=60&layers=2&hidden=64", EXISTING["/"])
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Training").first.wait_for()
    _until(lambda: _spans(page) > 0, 10)
    before = _spans(page)
    _until(lambda: _spans(page) > before, 10)
    assert "job=" in page.url
    page.reload()
    page.get_by_text("max |parallel").wait_for(timeout=60_000)
    page.get_by_text("They agree to the byte").wait_for()
    page.locator(".js-plotly-plot .barlayer .point").first.wait_for()
    tab.settle()
    assert tab.errors == []
    assert tab.strangers() == []


def test_cancel_ends_the_ranks(tab):
    """A running job, a click on Cancel, and no rank is left a second later."""
    page = tab.open("/?dp=2&steps=5000", EXISTING["/"])
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Training").first.wait_for()
    assert len(_ranks()) == 2
    page.get_by_role("button", name="Cancel").click()
    _until(lambda: not _ranks(), 5)


def test_closing_the_tab_ends_the_run(tab):
    """Nobody looks any more: the lease runs out, and the ranks go."""
    page = tab.open("/?dp=2&steps=6000", EXISTING["/"])
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Training").first.wait_for()
    assert len(_ranks()) == 2
    page.goto("about:blank")
    _until(lambda: not _ranks(), 15)


def test_an_upload_is_shown_exported_and_capped(tab, tmp_path):
    """A trace goes in and comes out the same; what is too large is refused by the server."""
    page = tab.open("/traces", EXISTING["/traces"])
    asked = []
    page.on("request", lambda r: asked.append(r) if "/_stcore/upload_file/" in r.url else None)
    trace = dp_step(title="mine", steps=2)
    file = tmp_path / "mine.json"
    file.write_text(trace.to_json())
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_text("mine.json").first.wait_for()
    _until(lambda: _spans(page) == len(trace.only(1).spans), 10)  # one step is on show
    with page.expect_download() as waiting:
        page.get_by_role("button", name="ShardLab JSON").click()
    assert Trace.from_json(Path(waiting.value.path()).read_text()) == trace
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Perfetto").click()
    events = json.loads(Path(waiting.value.path()).read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == len(trace.spans)
    put = next(request for request in asked if request.method == "PUT")
    headers = {k: v for k, v in put.all_headers().items() if k in ("cookie", "x-xsrftoken")}
    line = http.client.HTTPConnection(put.url.split("/")[2])
    headers["content-length"] = str(65 * 2**20)  # no body needs to follow
    line.request("PUT", "/" + put.url.split("/", 3)[3], headers=headers)
    answer = line.getresponse().status
    line.close()
    assert answer == 413


@pytest.mark.live
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_takes_its_runs_with_it(chromium, how):
    """Asked or killed, with a run under way: a moment later no process of it is left."""
    running = start_app()
    try:
        page = chromium.new_page()
        page.goto(f"{running.url}/?dp=2&steps=5000")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Training").first.wait_for(timeout=30_000)
        family = psutil.Process(running.process.pid).children(recursive=True)
        assert len(family) >= 3  # a supervisor and two ranks
        os.kill(running.process.pid, how)
        running.process.wait(10)
        _until(lambda: not [one for one in family if _lives(one)], 5)
        page.close()
    finally:
        stop_app(running)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _ranks() -> list[psutil.Process]:
    """The rank processes under this process: grandchildren of the app, forked by its supervisor."""
    found = []
    for app in psutil.Process().children():
        for supervisor in app.children():
            if "parallel_core.supervisor" in supervisor.cmdline():
                found += [rank for rank in supervisor.children() if _lives(rank)]
    return found


def _spans(page):
    """How many spans the player that was mounted last holds."""
    return page.evaluate("window.__shardlab_player?.state().spans ?? 0")


def _until(true, seconds):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    assert true()
