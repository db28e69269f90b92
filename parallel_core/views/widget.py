"""The player as a two-way Jupyter widget; needs anywidget (the extra `notebooks`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parallel_core.trace import Trace
from parallel_core.views.player import payload, source

if TYPE_CHECKING:
    from anywidget import AnyWidget


def widget(
    trace: Trace,
    *,
    own: Trace | None = None,
    model: Trace | None = None,
    title: str = "",
    step: int | None = None,
) -> AnyWidget:
    """A widget that plays `trace`.

    Assign `payload(more)` to its `payload` to let the picture grow; its `picked` is the span last
    clicked (rank, step, index, label, start). Raises ModuleNotFoundError with the remedy.
    """
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed; pip install 'shardlab[notebooks]', or use "
            "parallel_core.views.player.show, which needs nothing"
        ) from None

    traits: dict[str, Any] = {
        "_esm": source(),
        "payload": traitlets.Dict().tag(sync=True),
        "picked": traitlets.Dict().tag(sync=True),
    }
    # Built here, not with `class`, so that importing this module needs no anywidget.
    made: type[AnyWidget] = type("Player", (anywidget.AnyWidget,), traits)
    return made(payload=payload(trace, own=own, model=model, title=title, step=step))
