"""A real Chromium and one running app for all browser tests.

Without a Chromium the tests are skipped and say how to get one; SHARDLAB_REQUIRE_BROWSER=1 makes
that a failure instead, so that they cannot be skipped where they must run.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

CANDIDATES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WATCH_CSP = """document.addEventListener('securitypolicyviolation', e => {
  console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI) })"""
HARMLESS = ("/_stcore/health", "/_stcore/host-config")  # 404 under a deep link, Streamlit's own


def find_chromium() -> str:
    """The path of a Chromium; skips the test, or fails it where one is required."""
    for name in CANDIDATES:
        path = shutil.which(name)
        if path:
            return path
    reason = "no Chromium found: apt-get install chromium"
    if os.environ.get("SHARDLAB_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Server:
    """A running app: its address and its process."""

    url: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_app(port: int | None = None, **environment: str) -> Server:
    """Start the app as `shardlab app` does and wait until it answers."""
    port = port or free_port()
    code = f"from parallel_core.server import serve; serve({port}, open_browser=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return Server(url, process)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the app did not answer at {url} within 60 s")


def stop_app(server: Server) -> int:
    """End the app as Ctrl-C does; its exit code."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGINT)
    try:
        return server.process.wait(20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of one app for all browser tests."""
    find_chromium()
    running = start_app()
    yield running.url
    stop_app(running)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One headless Chromium for all browser tests."""
    path = find_chromium()
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGS), headless=True)
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page in its own context, with what it complained of and whom it asked."""

    page: Any
    url: str
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: str, heading: str) -> Any:
        """Go to `path` and wait until `heading` and the end of the script run are there."""
        self.page.goto(self.url + path)
        self.page.get_by_role("heading", name=heading, exact=True).wait_for(timeout=30_000)
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until no script is running."""
        self.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for(
            timeout=30_000
        )

    def strangers(self) -> list[str]:
        """Addresses asked that are not this app's."""
        ours = (self.url, self.url.replace("http", "ws"), "data:", "blob:")
        return [address for address in self.asked if not address.startswith(ours)]


@pytest.fixture
def tab(server: str, chromium: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A fresh tab; parametrize indirectly with {"width", "height", "scheme"}."""
    wish = getattr(request, "param", {})
    context = chromium.new_context(
        viewport={"width": wish.get("width", 1280), "height": wish.get("height", 900)},
        color_scheme=wish.get("scheme", "light"),
        reduced_motion="reduce",
    )
    context.add_init_script(WATCH_CSP)
    page = context.new_page()
    opened = Tab(page, server)

    def on_console(message: Any) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and not where.endswith(HARMLESS):
            opened.errors.append(f"{message.text} ({where})")

    page.on("console", on_console)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", lambda asked: opened.asked.append(asked.url))
    page.on("websocket", lambda socket: opened.asked.append(socket.url))
    yield opened
    context.close()
