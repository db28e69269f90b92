"""Start the web app on this machine: one process, 127.0.0.1 only, no torch in it.

The options stand in app/.streamlit/config.toml and are handed over as overrides, which win over
environment variables and over the reader's own Streamlit settings.
"""

from __future__ import annotations

import contextlib
import runpy
import socket
import sys
import threading
import tomllib
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

from parallel_core import places

HOST = "127.0.0.1"
FIRST_PORT = 8501


class PortError(ValueError):
    """The port asked for cannot be had; the sentence says what to do."""


def options(pages: Path) -> dict[str, Any]:
    """The settings in `pages`/.streamlit/config.toml with dotted names: {"server.address": ...}."""
    tables = tomllib.loads((pages / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    return _dotted(tables, "")


def _dotted(table: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= (
            _dotted(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


def choose_port(wanted: int | None) -> int:
    """`wanted` if it is free; without a wish, 8501 or else any free port.

    Raises PortError if the port asked for is taken, not allowed or no port at all.
    """
    if wanted is None:
        return FIRST_PORT if _is_free(FIRST_PORT) else _any_port()
    if not 1 <= wanted <= 65535:
        raise PortError(f"port={wanted} must be a whole number from 1 to 65,535; try {FIRST_PORT}")
    if not _is_free(wanted):
        raise PortError(f"port={wanted} is taken or not allowed; leave --port out for a free one")
    return wanted


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def serve(port: int | None = None, open_browser: bool = True) -> None:
    """Serve the app until SIGINT or SIGTERM; prints its address first.

    Raises PortError before anything is started. The runs of the app end with the server, however
    it ends: see app/asgi.py.
    """
    pages = places.app()
    chosen = choose_port(port)
    url = f"http://{HOST}:{chosen}"
    print(f"ShardLab is at {url}   (Ctrl-C stops it and every run it started)", flush=True)
    if open_browser:
        threading.Thread(target=_open_when_ready, args=(url,), daemon=True).start()
    sys.argv = [str(pages / "asgi.py")]  # Streamlit takes this folder as the app's own
    sys.path.insert(0, str(pages))
    app = runpy.run_path(sys.argv[0])["app"]
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop it, not an accident
        app.run(config={**options(pages), "server.port": chosen})


def _open_when_ready(url: str) -> None:
    for _ in range(150):
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                webbrowser.open(url)
                return
        except (urllib.error.URLError, OSError):
            threading.Event().wait(0.2)
