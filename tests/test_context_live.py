"""Attention over a sequence that is cut is the attention of one process, by every method."""

from __future__ import annotations

from itertools import product
from statistics import mean

import pytest
from context_faults import ZIGZAG
from context_targets import in_order

from parallel_core.context import METHODS, layout_of
from parallel_core.context.traffic import LayerShape

pytestmark = pytest.mark.live

LENGTHS = [(16, 0), (13, 0), (3, 0), (13, 6)]
"""New and cached tokens: what divides, what does not, fewer than ranks, after a cached prompt."""

CASES = [
    {"method": method, "causal": causal, "kv_heads": kv_heads, "seq": seq, "cached": cached}
    for method, causal, kv_heads, (seq, cached) in product(
        METHODS, (True, False), (4, 2, 1), LENGTHS
    )
] + [
    {"method": "zigzag", "causal": True, "kv_heads": 2, "seq": 13, "overlap": False},
    {"method": "pass-q", "causal": True, "kv_heads": 2, "seq": 13, "overlap": False},
    {"method": "hybrid", "causal": True, "kv_heads": 2, "seq": 13, "ulysses": 1},
]
FEW = [
    {"method": method, "causal": True, "kv_heads": 2, "seq": 13}
    for method in METHODS
    if method != "hybrid"
]


def shape_of(case: dict, n: int, width: int = 8) -> LayerShape:
    """What traffic.py is told of a case."""
    inside = case.get("ulysses", 2 if n == 4 else 1)
    layout = layout_of(
        case["method"], case["seq"], ranks=n, ulysses=inside, cached=case.get("cached", 0)
    )
    return LayerShape(
        layout=layout, batch=2, heads=4, kv_heads=case["kv_heads"], head_dim=8, width=width
    )


@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_method_is_one_process(n, on_ranks):
    """a, dq, dk, dv in float64 to 1e-10, padding NaN and never looked at; every message as
    predicted, in order: its op, its axis, its bytes."""
    for told in on_ranks(n, "context_targets:beside_one_process", cases=CASES):
        for case, found in zip(CASES, told, strict=True):
            assert max(found["errors"]) <= 1e-10, (case, found["errors"])
            moves = METHODS[case["method"]].moves
            for phase in ("forward", "backward"):
                predicted = in_order(moves(shape_of(case, n), phase == "backward"))
                assert found[phase] == predicted, (case, phase)
                assert predicted or n == 1


def test_a_ring_may_be_a_part_of_the_ranks(on_ranks):
    """cp = 2 beside dp = 2 (neighbours) and inside tp = 2 (every other rank)."""
    for told in on_ranks(4, "context_targets:beside_other_axes", cases=FEW):
        assert len(told) == 2 * len(FEW)
        assert max(map(max, told)) <= 1e-10, told


def test_faults_are_found(on_ranks):
    """What each planted mistake breaks: results (a, dq, dk, dv), gradients only, or the count."""
    by_rank = on_ranks(4, "context_faults:with_faults")
    moves = METHODS["zigzag"].moves
    predicted = {b: in_order(moves(shape_of(ZIGZAG, 4), b)) for b in (False, True)}
    worst = {
        fault: [max(told[fault]["errors"][i] for told in by_rank) for i in range(4)]
        for fault in by_rank[0]
    }
    counted = {
        fault: (told["forward"] == predicted[False], told["backward"] == predicted[True])
        for fault, told in by_rank[0].items()
    }
    assert max(worst["none"]) <= 1e-10 and counted["none"] == (True, True)
    for fault in ("wrong order", "contiguous positions"):
        assert min(worst[fault]) > 1e-3, fault
    # dv needs the weights alone, and those are right
    assert min(worst["no rescaling"][:3]) > 1e-3 and worst["no rescaling"][3] <= 1e-10
    for fault in ("last hop missing", "copies apart"):  # the loss looks right
        assert max(worst[fault][:2]) <= 1e-10 and min(worst[fault][2:]) > 1e-3, fault
    assert counted["last hop missing"] == (True, False)
    assert counted["one message more"] == (False, False)


def test_bfloat16_wants_its_sums_in_float32(on_ranks):
    """Summed in float32 the error of a, dq, dk, dv does not depend on the ring; in bfloat16 it
    grows with every rank."""
    case = {"method": "ring", "causal": False, "kv_heads": 4, "seq": 256, "dtype": "bfloat16"}
    cases = [{**case, "merge": merge} for merge in ("float32", "bfloat16")]
    wide, narrow = [], []  # by ring size
    for n in (1, 2, 4):
        by_rank = on_ranks(n, "context_targets:beside_one_process", cases=cases)
        for i, errors in enumerate((wide, narrow)):
            each = zip(*(told[i]["rms"] for told in by_rank), strict=True)
            errors.append([mean(ranks) for ranks in each])
    for one, two, four in zip(*wide, strict=True):
        assert max(one, two, four) <= 1.02 * one <= 0.005
    for one, two, four in zip(*narrow, strict=True):
        assert one < two < four and four > 1.3 * one


def test_the_next_hop_travels_beside_the_tiles(on_ranks):
    """Posted before the tile begins and taken after it: when the rank asks, it is there. Without
    overlap it comes first, and the rank stands until it is here."""
    for told in on_ranks(2, "context_targets:spans", seq=1 << 14, pause=0.05):
        stood = {}
        for name, rounds in told.items():
            for spans in rounds:
                _in_place(spans, beside=name == "beside")
            hops = [span for spans in rounds for span in spans if span[0] == "kv"]
            waits = [done - asked for _, _, asked, done in hops]
            stood[name] = min(waits)  # the others met a neighbour that was late
        assert stood["beside"] < stood["apart"] / 2, stood


def _in_place(spans: list, *, beside: bool) -> None:
    """Two tiles each way: kv goes under the first, and dkv, backward, under the second."""
    tiles = [span for span in spans if span[0] == "tile"]
    hops = [span for span in spans if span[0] == "kv"]
    behind = [span for span in spans if span[0] == "dkv"]
    assert [len(tiles), len(hops), len(behind)] == [4, 2, 2]
    under = [*zip(hops, tiles[::2], strict=True), (behind[0], tiles[3])]
    for (_, posted, _, came), (_, begun, _, ended) in under:
        if beside:
            assert posted < begun < ended < came
        else:
            assert posted < came < begun


def test_our_ring_is_torchs(on_ranks):
    """Output and gradients in float32 to 1e-5, contiguous and zigzag, with both its rotations."""
    for n in (2, 4):
        for told in on_ranks(n, "context_targets:beside_torch", seq=32):
            assert len(told) == 4
            assert max(map(max, told)) <= 1e-5, told
