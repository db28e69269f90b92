"""Does the installed wheel work where there is no checkout? `python wheel_check.py PREFIX`.

PREFIX is the environment the wheel was installed into: nothing of ours may come from elsewhere.
Standard library only, so that it can be copied out of the checkout and run there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

HEALTH = "/_stcore/health"


def main() -> None:
    """Every check in turn; the first that fails ends it with its reason."""
    prefix = Path(sys.argv[1]).resolve()
    shardlab = str(prefix / "bin" / "shardlab")
    import parallel_core
    from parallel_core import places

    folders = (Path(parallel_core.__file__).parent, places.app(), places.assets(), places.lessons())
    for folder in folders:
        assert prefix in folder.resolve().parents, f"{folder} is not of the wheel"
    site = folders[0].parent
    for name in ("app", "lessons", "assets", "tests"):
        assert not (site / name).exists(), f"the wheel installs a top-level {name}/"
    said = _output(shardlab, "--version")
    assert parallel_core.__version__ in said, said
    report: dict[str, Any] = json.loads(
        _output(shardlab, "run", "--dp", "2", "--steps", "2", "--json")
    )
    assert report["parity"]["max_rel_error"] < 1e-5, report["parity"]
    assert report["layout"]["world_size"] == 2
    assert "01_why_distribute" in _output(shardlab, "lesson")
    pages = _pages(shardlab)
    print(f"{said.strip()}: runs, lists lessons, and serves {', '.join(pages)}")


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def _pages(shardlab: str) -> list[str]:
    """Start the app, wait until it is healthy, and fetch every page of its table."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = subprocess.Popen([shardlab, "app", "--port", str(port), "--no-browser"])
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url + HEALTH, app)
        return [path for path in _table() if _get(f"{url}/{path}")]
    finally:
        app.send_signal(signal.SIGTERM)
        app.wait(30)


def _table() -> list[str]:
    """The paths of the pages, in the app that the wheel brought."""
    code = (
        "import sys; from parallel_core import places; sys.path.insert(0, str(places.app()))\n"
        "from screens import SCREENS, load; load()\n"
        "assert all(screen.exists for screen in SCREENS), 'a page of the table is missing'\n"
        "print('\\n'.join(screen.path or screen.module for screen in SCREENS))"
    )
    quiet = {**os.environ, "STREAMLIT_LOGGER_LEVEL": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def _wait(url: str, app: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            if _get(url):
                return
        except OSError:
            assert app.poll() is None, f"the app ended with {app.returncode}"
            time.sleep(0.2)
    raise AssertionError("the app did not answer within a minute")


def _get(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body = answer.read().decode()
    return answer.status == 200 and bool(re.search("ok|<title>", body, re.IGNORECASE))


if __name__ == "__main__":
    main()
