"""A page that needs nothing else: one script, its data, and a picture where no script may run.

The Content-Security-Policy lets that one script run, which its digest names, and nothing be
fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
from collections.abc import Mapping
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; \
base-uri 'none'; form-action 'none'">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
html {{ background: #fff; color: #16202c }}
body {{ margin: 0; padding: clamp(12px, 2.5vw, 32px); max-width: 1440px; margin-inline: auto }}
noscript svg {{ max-width: 100%; height: auto }}
@media (prefers-color-scheme: dark) {{ html {{ background: #12161c; color: #e6eaf0 }} }}
</style></head>
<body><main id="player"></main>
<noscript>{picture}</noscript>
<script type="application/json" id="payload">{data}</script>
<script type="module">{script}</script>
</body></html>
"""

_START = """
const data = document.getElementById("payload").textContent;
mount(document.getElementById("player"), JSON.parse(data), { heading: 1 });
"""


def page(title: str, source: str, data: Mapping[str, Any], *, picture: str) -> str:
    """The HTML of a page that shows `data` by the `mount` of the JavaScript in `source`.

    `picture` is markup (an SVG), shown without JavaScript.
    """
    script = source + _START
    return _PAGE.format(
        title=markup.escape(title),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        picture=picture,
        data=_script_safe(data),
        script=script,
    )


def _script_safe(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
