"""The expert grid for a page: the figure, a sentence for each token, and its script."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from parallel_core import places
from parallel_core.views.expert_grid import Picture, drawing
from parallel_core.views.expert_rows import Token

HINT = "Point at a token, or go down with the arrow keys."


def payload(picture: Picture, *, run: str) -> dict[str, Any]:
    """What experts.js needs. A payload with the same `run` keeps the token that was picked."""
    says = [sentence(token, picture.loads.each) for token in picture.tokens]
    figure = (
        "<div class='stage' role='group' tabindex='0' aria-label='Tokens and their experts: "
        f"arrow keys go from token to token'>{drawing(picture)}</div>"
        f"<p class='says' aria-live='polite'>{HINT}</p>"
    )
    return {"run": run, "figure": figure, "says": says, "hint": HINT}


def sentence(token: Token, each: int) -> str:
    """Where a token goes, `each` experts on a rank.

    >>> sentence(Token(1, 1, 5, ((0, True), (3, False))), 2)
    'Token 5 on r1: to expert 0 (r0); no place in expert 3 (r1).'
    """
    parts = []
    for expert, went in token.choices:
        owner = expert // each
        if not went:
            parts.append(f"no place in expert {expert} (r{owner})")
        elif owner == token.home:
            parts.append(f"expert {expert} is here")
        else:
            parts.append(f"to expert {expert} (r{owner})")
    return f"Token {token.position} on r{token.home}: {'; '.join(parts) or 'nobody took it'}."


@lru_cache(maxsize=1)
def source() -> str:
    """The JavaScript that goes from token to token."""
    return (places.assets() / "experts.js").read_text(encoding="utf-8")
