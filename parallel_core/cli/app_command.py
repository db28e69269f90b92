"""`shardlab app`: the web app, on this machine only."""

from __future__ import annotations

import click


@click.command("app")
@click.option("--port", type=click.IntRange(1024, 65535), help="default: 8501, or a free one")
@click.option("--no-browser", is_flag=True, help="do not open a browser")
def command(port: int | None, no_browser: bool) -> None:
    """Open the web app on 127.0.0.1.

    \b
    Examples:
      shardlab app
      shardlab app --port 9000 --no-browser
    """
    from parallel_core.server import serve

    serve(port, open_browser=not no_browser)
