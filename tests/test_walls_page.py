"""Claims about the page Walls: every section opens, says when memory runs out, measures live."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).parent.parent / "app"
SECTIONS = {
    "Memory": (1, 0, False),
    "Work": (0, 1, False),
    "Roofline": (2, 0, False),
    "This machine": (0, 0, True),
    "The map": (0, 3, False),
}  # section -> figures, tables, the button that measures


def _script():
    from screens import walls

    walls.page()


@pytest.fixture
def opened(monkeypatch):
    """A function that opens the page with these URL parameters, its prediction skipped."""
    monkeypatch.syspath_prepend(str(APP))

    def open_page(**query):
        page = AppTest.from_function(_script, default_timeout=30)
        for name, value in query.items():
            page.query_params[name] = value
        page.run()
        for button in page.button:
            if button.label == "Skip":
                button.click().run()
                break
        assert not page.exception
        return page

    return open_page


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_opens(opened, section):
    """The section named in the URL is drawn: its figures, its tables, its button."""
    page = opened(section=section)
    buttons = [button.label for button in page.button]
    drawn = (len(page.get("plotly_chart")), len(page.table), "Measure this machine" in buttons)
    assert drawn == SECTIONS[section]


def test_the_instrument_opens_after_the_guess(opened, monkeypatch):
    """No figure before the guess is settled; a locked one is set beside the truth."""
    page = AppTest.from_function(_script, default_timeout=30).run()
    assert not page.get("plotly_chart")
    page.number_input(key="walls.state.number").set_value(30.0).run()
    page.button(key="walls.state.lock").click().run()
    assert len(page.get("plotly_chart")) == 1
    assert any("You said 30 GB; it is 120 GB." in text.value for text in page.markdown)


def test_memory_runs_out_and_does_not(opened):
    """8B in bf16 with Adam is too much for one H100 and fits an H200; 135M fits anything."""
    assert "Out of memory" in opened(model="Llama 3 8B", device="H100 SXM").error[0].value
    fits = opened(model="Llama 3 8B", device="H200 SXM", keep="only each layer's input")
    assert "Training fits" in fits.success[0].value and not fits.error
    assert not opened(model="SmolLM2-135M").error


def test_a_rumour_is_called_one(opened):
    """The 7T model carries its warning and 175 devices for its bf16 weights."""
    page = opened(model="rumoured 7T")
    assert "rumour" in page.warning[0].value
    assert {box.label: box.value for box in page.metric}["Devices, weights"] == "175"


def test_nonsense_in_the_url_is_dropped(opened):
    """A model that does not exist and a batch of minus one leave the page standing."""
    assert opened(model="<script>", batch="-1", seq="x").metric


def test_the_page_loads_no_torch():
    """Sections that only predict leave torch alone; the measurement runs in another process."""
    code = (
        f"import sys; sys.path.insert(0, {str(APP)!r})\n"
        "from screens import walls; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.live
def test_it_measures_this_machine(opened):
    """The button starts a job; points appear while it runs, peak and ridge when it is over."""
    page = opened(section="This machine")
    page.button(key="walls.measure").click().run()
    seen, end = set(), time.monotonic() + 60
    while not page.metric and time.monotonic() < end:
        seen |= {len(page.get("plotly_chart"))}
        time.sleep(0.5)
        page.run()
    assert [box.label for box in page.metric] == ["Peak", "Memory", "Ridge"]
    assert len(page.get("plotly_chart")) == 2 and 0 in seen
