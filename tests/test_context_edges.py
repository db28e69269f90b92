"""At the edges: short sequences, bfloat16 by default, ends at odds, what a plan passes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from context_targets import in_order
from hypothesis import given
from hypothesis import strategies as st
from test_context_live import shape_of
from test_context_shares import WAYS

from parallel_core.assemble import program as program_of
from parallel_core.choices import IGNORED
from parallel_core.context import METHODS, attending, layout_of
from parallel_core.context.context import Context
from parallel_core.context.crossover import Ring
from parallel_core.context.layout import Travels
from parallel_core.launch import RunError
from parallel_core.plan import Plan, PlanError
from parallel_core.sizes import step_flops
from parallel_core.text import Batch, columns_of


@given(st.sampled_from(list(METHODS)), st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 13))
def test_each_token_counts_on_one_rank(method, cp, seq):
    """Its id with its own label, once over all ranks, however few tokens there are; every rank
    has as many columns as its share."""
    more: dict[str, Any] = {"cp_method": method} if cp > 1 else {}
    if method == "hybrid" and cp == 3:
        more["ulysses"] = 3
    plan = Plan.of(cp=cp, seq=seq, heads=12, hidden=96, **more)
    ids = np.arange(2 * seq).reshape(2, seq)
    counted = []
    for rank in range(plan.world_size):
        here = columns_of(plan, rank).of(Batch(ids=ids, labels=ids + 1000))
        assert here.ids.shape == here.labels.shape == (2, plan.seq_here)
        real = here.labels != IGNORED
        assert (here.labels - here.ids == 1000)[real].all()
        counted += here.labels[real].tolist()
    assert sorted(counted) == (ids + 1000).ravel().tolist()


BFLOAT16 = [
    {"method": method, "causal": True, "kv_heads": kv, "seq": 16, "dtype": "bfloat16"}
    for method in METHODS
    for kv in (2, 1)
]


@pytest.mark.live
def test_sums_of_several_ranks_travel_in_float32_by_themselves(on_ranks):
    """Nobody asks for it: a bfloat16 layer sends what it sends in two bytes, and parts of sums in
    four, message by message as predicted."""
    for told in on_ranks(4, "context_targets:beside_one_process", cases=BFLOAT16):
        for case, found in zip(BFLOAT16, told, strict=True):
            assert max(found["rms"]) < 0.006, (case, found["rms"])
            for phase in ("forward", "backward"):
                shape = shape_of(case, 4, width=2)
                predicted = METHODS[case["method"]].moves(shape, phase == "backward")
                assert found[phase] == in_order(predicted), (case, phase)


@pytest.mark.live
def test_queries_travel_beside_the_tiles_too(on_ranks):
    """Pass-Q both ways: the next guests are posted before this hop's tile and taken after it."""
    for told in on_ranks(2, "context_edge_targets:spans_of_queries", pause=0.02):
        for name, spans in told.items():
            tiles = [span for span in spans if span[0] == "tile"]
            assert len(tiles) == 4
            for what, (_, begun, _, ended) in (
                ("q", tiles[0]), ("q_a_da", tiles[2]), ("lse", tiles[2]),
            ):  # fmt: skip
                ((_, posted, _, came),) = [span for span in spans if span[0] == what]
                if name == "beside":
                    assert posted < begun < ended < came, what
                else:
                    assert posted < came < begun, what


@pytest.mark.live
@pytest.mark.parametrize("kind", ["shape", "dtype", "name"])
def test_the_ends_of_a_hop_must_agree(kind, on_ranks):
    """As many bytes of something else would be taken for what was meant."""
    with pytest.raises(RunError, match=r"message from rank \d to rank \d.* does not match"):
        on_ranks(2, "context_edge_targets:hop_at_odds", kind=kind)


@pytest.mark.parametrize(("method", "overlap"), WAYS)
def test_a_layer_attends_by_what_the_plan_says(method, overlap, monkeypatch):
    """Its method, its layout, its overlap: what the model is priced by is what runs."""
    plan = Plan.of(cp=4, cp_method=method, seq=50, overlap_cp=overlap)
    layer = SimpleNamespace(attn=SimpleNamespace())
    model: Any = SimpleNamespace(units={"embed": SimpleNamespace(), "layer0": layer})
    comm: Any = SimpleNamespace(mesh=plan.mesh, rank=0)
    given_to: list[Context] = []
    monkeypatch.setattr(attending, "attention", lambda *args: given_to.append(args[-1]))
    attending.install(model, plan, comm)
    layer.attn.attend(*[None] * 4)
    (context,) = given_to
    assert (context.method, context.layout) == (method, plan.context)
    assert context.overlap == overlap and context.causal


@given(st.sampled_from(list(METHODS)), st.sampled_from([2, 4]), st.integers(1, 13))
def test_every_weight_is_dropped_or_kept_on_one_rank(method, cp, seq):
    """All tiles of all ranks ask for the factor of each weight below the diagonal once: of the
    right head, query and key, whoever travels."""
    plan = Plan.of(cp=cp, cp_method=method, seq=seq, heads=4, hidden=32)
    asked = Counter[tuple[int, int, int]]()
    travels = METHODS[method].travels if method == "pass-q" else Travels.KV
    for rank in range(cp):

        def factor(heads: range, rows: Sequence[int], cols: Sequence[int]) -> torch.Tensor:
            asked.update((h, s, t) for h in heads for s in rows for t in cols if t <= s)
            return torch.ones(1, len(heads), len(rows), len(cols))

        comm: Any = SimpleNamespace(mesh=plan.mesh, rank=rank)
        context = Context(comm, plan.context, method=method, factor=factor)
        q = torch.zeros(1, 4 // plan.context.ulysses, plan.context.block, 8)
        for hop in range(plan.context.rings):
            factors = context.factors(hop, q, travels)
            assert factors is not None
            for tile in context.tiles(hop, travels):
                factors(tile)
    weights = {(h, s, t) for h in range(4) for s in range(seq) for t in range(s + 1)}
    assert asked == Counter(weights)


def test_a_context_that_does_not_fit_its_mesh_is_refused():
    """A layout for other ranks, or with heads dealt out by a method that deals none."""
    mesh = Plan.of(cp=4).mesh
    comm: Any = SimpleNamespace(mesh=mesh, rank=0)
    with pytest.raises(ValueError, match="the layout is for cp=2, the mesh has 4"):
        Context(comm, layout_of("zigzag", 16, ranks=2))
    with pytest.raises(ValueError, match="dropout is for training"):
        cached = layout_of("zigzag", 16, ranks=4, cached=8)
        Context(comm, cached, factor=lambda *_: torch.ones(()))
    with pytest.raises(ValueError, match="zigzag deals out no heads"):
        Context(comm, layout_of("hybrid", 16, ranks=4), method="zigzag")


@pytest.mark.parametrize("heads", [1, 3, 5])
@pytest.mark.parametrize("tp", [1, 2])
def test_the_nearest_number_of_ranks_for_ulysses_is_one_that_works(heads, tp):
    """One rank has nobody to trade with: then another method is the nearest."""
    asked = {"cp": 2, "tp": tp, "cp_method": "ulysses", "heads": heads * tp, "hidden": 60}
    with pytest.raises(PlanError) as error:
        Plan.of(**asked)
    Plan.of(**{**asked, error.value.field: error.value.nearest})


def test_the_rule_takes_its_own_threshold_for_hidden():
    """At least so many new tokens hide, says the paper: the number itself does."""
    meta = Ring(n=4, heads=128, kv_heads=8, flops=800e12, bytes_per_s=50e9)
    assert meta.choose(4000, 124_000) == "pass-kv" and meta.choose(3999, 124_001) == "pass-q"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"cp": 2, "dp": 2, "parameter_server": "sync"}, "cp"),
        ({"ulysses": 2}, "ulysses"),
        ({"overlap_cp": False}, "overlap_cp"),
        ({"cp": 2, "cp_method": "ulysses", "heads": 6, "kv_heads": 3, "hidden": 96}, "cp"),
        ({"cp": 2, "cp_method": "hybrid", "heads": 6, "kv_heads": 3, "hidden": 96}, "ulysses"),
        ({"cp": 4, "tp": 2, "cp_method": "ulysses", "heads": 4}, "cp"),
    ],
)
def test_what_goes_not_with_it_is_named(wrong, field):
    """Alone, with a server, with heads that cannot be dealt out."""
    with pytest.raises(PlanError) as error:
        Plan.of(**wrong)
    assert error.value.field == field
    Plan.of(**{**wrong, field: error.value.nearest})


@given(
    st.sampled_from(list(METHODS)),
    st.integers(2, 6),
    st.sampled_from([1, 2]),
    st.sampled_from([(12, 12), (12, 6), (12, 4), (12, 3), (12, 1), (6, 3), (2, 1)]),
    st.integers(1, 30),
)
def test_a_plan_that_is_taken_can_be_run(method, cp, tp, heads, seq):
    """Its program is made, with messages that its heads allow."""
    fields = {"heads": heads[0], "kv_heads": heads[1], "hidden": 96, "layers": 1}
    try:
        plan = Plan.of(cp=cp, tp=tp, cp_method=method, seq=seq, **fields)
    except PlanError:
        return
    assert len(program_of(plan).ranks) == cp * tp


@pytest.mark.live
def test_nothing_of_the_others_outlives_a_forward(on_ranks):
    """By the allocator: the result and its lse stay; nobody keeps the keys of others, whatever
    autograd is told."""
    ways = ["allgather", "ring", "zigzag", "pass-q"]
    for told in on_ranks(4, "context_edge_targets:left_by_a_forward", methods=ways, seq=8192):
        assert max(told.values()) < 4, told  # all keys would be 8 more


def test_a_cut_sequence_is_as_many_flops():
    """Where it divides; padding is computed, and counted."""
    one = step_flops(Plan.of(seq=64))
    for more in ({"cp": 4}, {"cp": 4, "dp": 2}, {"cp": 2, "tp": 2}):
        assert step_flops(Plan.of(seq=64, **more)) == one
    assert step_flops(Plan.of(seq=63, cp=4)) > step_flops(Plan.of(seq=63))
