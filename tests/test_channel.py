"""What goes through the pipes of a run reads back as it was said."""

from __future__ import annotations

import json

from parallel_core.channel import Lines, Order


def test_lines_survive_any_cut():
    """However a pipe cuts the bytes, the same lines come out."""
    text = b'one\n\n{"a": 1}\nlast\n'
    for size in range(1, len(text) + 1):
        lines = Lines()
        found = [ln for i in range(0, len(text), size) for ln in lines.feed(text[i : i + size])]
        assert found == [b"one", b"", b'{"a": 1}', b"last"]


def test_an_order_reads_back():
    """What the owner asks for is what the supervisor reads."""
    order = Order(run="r1", target="m:f", world_size=2, args={"a": 1}, dir="/x", path=("/p",))
    assert Order.of(json.loads(json.dumps(order.request()))) == order
