"""The web application: the router script, the response headers, and what starts and ends with it.

Ends with it: every run. The lifespan closes the job manager when the server is told to stop; if
the server is killed outright, the workers notice that their parent is gone and end themselves.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).parent


def content_security_policy() -> str:
    """The policy of every response: nothing from elsewhere, no inline script but Streamlit's own.

    `blob:` because components (v2) are imported from a blob URL; the hash is that of the one
    inline script in the installed Streamlit's index page, so it never goes stale.
    """
    page = (Path(st.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' blob: 'wasm-unsafe-eval' {allowed}".strip(),
            "worker-src 'self' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "font-src 'self' data:",
            "frame-ancestors 'self'",
            "base-uri 'self'",
            "form-action 'self'",
            "object-src 'none'",
        ]
    )


class SecurityHeaders:
    """ASGI middleware: the same security headers on every HTTP response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        headers = {
            "content-security-policy": content_security_policy(),
            "x-content-type-options": "nosniff",
            "x-frame-options": "SAMEORIGIN",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
        }
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = {name for name, _ in self.headers}
                kept = [pair for pair in message["headers"] if pair[0].lower() not in ours]
                message = {**message, "headers": [*kept, *self.headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Import the screens once, then freeze what is loaded; close the runs at the end.

    Streamlit collects all garbage after every script run; with the modules frozen that costs
    8 ms in place of 60 to 90.
    """
    import screens
    from screens import live

    screens.load()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        live.close_jobs()


app = st.App(
    HERE / "main.py",
    lifespan=lifespan,
    middleware=[
        Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
        Middleware(SecurityHeaders),
    ],
)
