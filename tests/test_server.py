"""`shardlab app` serves on this machine alone, with our headers, and stops when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import browser
import psutil
import pytest
from browser import Server, start_app, stop_app

from parallel_core import places
from parallel_core.server import HOST, PortError, choose_port, options


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """An app started in an environment that tries to open it to the network."""
    app = start_app(STREAMLIT_SERVER_ADDRESS="0.0.0.0", STREAMLIT_SERVER_MAX_UPLOAD_SIZE="900")
    yield app
    stop_app(app)


def _get(url: str, **headers: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def test_it_listens_on_this_machine_only(running):
    """Whatever the environment says, the only address listened on is 127.0.0.1."""
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(running.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {HOST}


def test_every_response_carries_the_policy(running):
    """Pages, assets and errors alike; no script from elsewhere, none inline but the known one."""
    for path in ("/", "/traces", "/favicon.png", "/no/such/file.js"):
        policy = _get(running.url + path)[1]["content-security-policy"]
        assert "default-src 'self'" in policy
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert "'unsafe-inline'" not in scripts and "'unsafe-eval'" not in scripts
        assert "http" not in policy and "*" not in policy


def test_another_host_name_is_refused(running):
    """A page elsewhere that points its own name at 127.0.0.1 gets nothing."""
    assert _get(running.url, Host="evil.example")[0] == 400
    assert _get(running.url)[0] == 200


def test_the_options_exist_and_win_over_the_environment(running):
    """Each option of config.toml is one that Streamlit knows; the ones that keep us safe stand."""
    from streamlit import config

    given = options(places.app())
    assert set(given) <= set(config._config_options_template)
    assert given["server.address"] == HOST
    assert given["browser.gatherUsageStats"] is False
    assert given["client.showErrorDetails"] == "none"


def test_a_taken_port_is_said_before_anything_starts():
    """One sentence with the field and the remedy; without a wish another port is found."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PortError, match=f"port={taken} is taken.*leave --port out"):
            choose_port(taken)
    with pytest.raises(PortError, match="from 1 to 65,535"):
        choose_port(0)
    assert choose_port(None) > 1023


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_and_leaves_nobody(how):
    """However the server ends, no process of its session is left a moment later."""
    app = start_app()
    session = os.getsid(app.process.pid)
    began = time.monotonic()
    app.process.send_signal(how)
    app.process.wait(20)
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 10
    while _members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _members(session) == []


def _members(session: int) -> list[int]:
    alive = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return alive


def test_the_server_process_never_loads_torch():
    """Everything the server imports to show every page, and not torch."""
    code = (
        f"import sys; sys.path.insert(0, {str(places.app())!r});"
        "import parallel_core.server, asgi, screens; screens.load();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("required", "end"), [("0", pytest.skip), ("1", pytest.fail)])
def test_a_missing_chromium_is_skipped_or_fails_and_says_the_remedy(monkeypatch, required, end):
    """A reader without a browser can run the tests; where one is required they cannot pass."""
    monkeypatch.setattr(browser, "CANDIDATES", ("no-such-browser",))
    monkeypatch.setenv("SHARDLAB_REQUIRE_BROWSER", required)
    with pytest.raises(end.Exception, match="apt-get install chromium"):
        browser.find_chromium()
