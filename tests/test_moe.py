"""A layer of experts is the sum it stands for, token by token; and so is its gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from parallel_core.crossing import Flow, run_part
from parallel_core.expert.routing import balance_sum, z_sum
from parallel_core.model import Place, Transformer, init_weights, loss_sum
from parallel_core.moe import MoE, put_back, send
from parallel_core.plan import Plan
from parallel_core.text import Sampler

SMALL = Plan.of(
    hidden=16,
    layers=2,
    heads=4,
    seq=8,
    vocab=64,
    global_batch=4,
    ffn=12,
    experts=4,
    dtype="float64",
)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt": {"dialect": "gpt"},
    "one choice": {"top_k": 1},
    "dropped": {"router": "capacity", "capacity": 0.5, "skew": 1.0},
    "experts choose": {"router": "expert-choice"},
    "sigmoid, shared, biased": {"score": "sigmoid", "shared_experts": 2, "balance": "bias"},
    "gpt, shared": {"dialect": "gpt", "shared_experts": 1, "top_k": 3},
    "groups": {"experts": 8, "expert_groups": 4, "group_limit": 2},
    "flooded": {"skew": 80.0, "top_k": 1},
}
LOSSES: dict[str, dict[str, Any]] = {
    "balance": {"balance": "aux", "aux_loss": 0.7},
    "z": {"z_loss": 0.3},
    "both": {"balance": "aux", "aux_loss": 0.7, "z_loss": 0.3, "score": "sigmoid"},
    "both, dropped": {"balance": "aux", "z_loss": 0.3, "router": "capacity", "capacity": 0.7},
}
every_kind = pytest.mark.parametrize("more", KINDS.values(), ids=KINDS)
every_loss = pytest.mark.parametrize("more", LOSSES.values(), ids=LOSSES)
HERE = Place(0, 0, torch.arange(4), torch.arange(8))


def drawn(plan: Plan) -> tuple[MoE, torch.Tensor]:
    """The first layer's experts, with weights that matter, and an input."""
    made = torch.Generator().manual_seed(1)
    model = Transformer(plan, only=("layer0",))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=made)
    x = torch.randn(4, 8, plan.model.hidden, generator=made, dtype=torch.float64)
    moe = model.routers["layer0"]
    if plan.model.balance == "bias":
        moe.router.bias_e.copy_(torch.linspace(-0.5, 0.5, plan.model.experts))
    return moe, x


def one_expert(moe: MoE, e: int, x_d: torch.Tensor) -> torch.Tensor:
    """What expert e makes of one token."""
    up = moe.experts.up.weight[e] @ x_d
    if moe.experts.gate is None:
        h = F.gelu(up, approximate="tanh")
    else:
        h = F.silu(moe.experts.gate.weight[e] @ x_d) * up
    return moe.experts.down.weight[e] @ h


def by_hand(moe: MoE, x_bsd: torch.Tensor) -> torch.Tensor:
    """Each token through each of its experts, one by one; who takes it is the layer's decision."""
    assert moe.routed is not None
    choice, rules = moe.routed.choice, moe.rules
    out = []
    for b, s in product(range(x_bsd.shape[0]), range(x_bsd.shape[1])):
        x_d = x_bsd[b, s]
        logits_e = moe.router.weight @ x_d + moe.router.lean_e
        scores_e = logits_e.sigmoid() if rules.score == "sigmoid" else logits_e.softmax(0)
        mine = choice.asked[b, s].nonzero().flatten().tolist()
        whole = sum(scores_e[e] for e in mine)
        y_d = torch.zeros_like(x_d)
        for e in choice.kept[b, s].nonzero().flatten().tolist():
            alone = rules.router == "expert-choice" or rules.top_k == 1
            y_d = y_d + (scores_e[e] if alone else scores_e[e] / whole) * one_expert(moe, e, x_d)
        out.append(y_d if moe.shared is None else y_d + moe.shared(x_d))
    return torch.stack(out).view(x_bsd.shape)


@every_kind
def test_it_is_the_sum_over_each_tokens_experts(more):
    """Values and every gradient, the router's too."""
    moe, x = drawn(SMALL.but(**more))
    x.requires_grad_()
    y = moe(x, HERE)
    truth = by_hand(moe, x)
    torch.testing.assert_close(y, truth, rtol=1e-12, atol=1e-12)
    leaves = [x, *moe.parameters()]
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    mine = torch.autograd.grad(y, leaves, dy)
    right = torch.autograd.grad(truth, leaves, dy, allow_unused=True)
    for found, wanted in zip(mine, right, strict=True):
        wanted = torch.zeros_like(found) if wanted is None else wanted
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_a_token_that_no_expert_takes_keeps_its_residual():
    """The layer adds nothing to it, to the bit; the others are changed."""
    plan = SMALL.but(router="capacity", capacity=0.5, skew=60.0, top_k=1)
    moe, x = drawn(plan)
    y = moe(x, HERE)
    assert moe.routed is not None
    taken = moe.routed.choice.kept.any(-1)
    assert 0 < int(taken.sum()) < taken.numel()
    assert (y[~taken] == 0).all() and (y[taken] != 0).any(-1).all()


def test_an_expert_that_nobody_asks_for_has_a_gradient_of_zero():
    moe, x = drawn(SMALL.but(skew=80.0, top_k=1))
    moe(x, HERE).sum().backward()
    assert moe.routed is not None and moe.routed.counts == [32, 0, 0, 0]
    for weight in moe.experts.parameters():
        assert (weight.grad[0] != 0).any() and (weight.grad[1:] == 0).all()


@pytest.mark.parametrize("dialect", ["llama", "gpt"])
def test_experts_that_are_all_alike_are_one_mlp(dialect):
    """Gates of several choices sum to one: whoever is chosen, the layer is the dense one."""
    moe, x = drawn(SMALL.but(dialect=dialect))
    with torch.no_grad():
        for weight in moe.experts.parameters():
            weight.copy_(weight[:1].expand_as(weight))
    one = torch.stack([one_expert(moe, 0, x_d) for x_d in x.flatten(0, 1)]).view(x.shape)
    torch.testing.assert_close(moe(x, HERE), one, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------- losses of its own


def gradients(plan: Plan, rows_at_once: int, *, by_units: bool) -> tuple[float, dict[str, Any]]:
    """Of one batch in parts: through the model at once, or unit by unit as kernels do."""
    model, total = Transformer(plan), 0.0
    init_weights(model, plan)
    batch = Sampler(plan).batch(0)
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    for rows in torch.arange(len(ids)).split(rows_at_once):
        place = Place(plan.seed, 0, rows, torch.arange(plan.seq))
        if by_units:
            x = ids[rows]
            for unit in model.units:
                x = model.forward_unit(unit, x, place)
            loss = loss_sum(x, labels[rows]) / labels.numel()
        else:
            loss = model(ids[rows], labels[rows], place, labels.numel())
        loss.backward()
        total += loss.item()
    return total, {name: w.grad for name, w in model.named_parameters()}


@every_loss
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_losses_of_a_router_are_added_once_however_the_batch_is_cut(more, rows):
    """All of the batch at once, as one process takes it, or some rows after others unit by unit:
    the same gradients; the loss that is told is the text's alone."""
    plan = SMALL.but(**more)
    plain, _ = gradients(plan.but(balance="none", z_loss=0.0, aux_loss=0.01), 4, by_units=False)
    told, truth = gradients(plan, 4, by_units=False)
    loss, found = gradients(plan, rows, by_units=True)
    assert loss == pytest.approx(told, rel=1e-14) and told == pytest.approx(plain, rel=1e-14)
    for name, right in truth.items():
        torch.testing.assert_close(found[name], right, rtol=1e-10, atol=1e-14)


@every_loss
def test_they_are_their_definitions_over_all_that_a_step_has(more):
    """A balance loss a sequence, divided by the sequences; a z-loss a token, by the tokens."""
    plan = SMALL.but(**more)
    m, model = plan.model, Transformer(plan)
    init_weights(model, plan)
    batch = Sampler(plan).batch(0)
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    x, extra = ids, torch.zeros((), dtype=torch.float64)
    for name, unit in model.units.items():
        if name in model.routers:
            moe = model.routers[name]
            attended = unit.attended(x, HERE)
            logits = moe.router(unit.mlp_norm(attended))
            moe.owed = []
            h = moe(unit.mlp_norm(attended), HERE)
            assert moe.routed is not None
            if m.balance == "aux":
                asked_be = moe.routed.choice.asked.sum(1)
                extra = extra + m.aux_loss * balance_sum(logits, asked_be, moe.rules, 8) / 4
            extra = extra + m.z_loss * z_sum(logits) / 32
            x = unit.added(attended, h, HERE)
        else:
            x = model.forward_unit(name, x, HERE)
    (loss_sum(x, labels) / labels.numel() + extra).backward()
    _, found = gradients(plan, 4, by_units=True)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-10, atol=1e-14)


def test_a_bias_moves_towards_even_loads():
    """A step up where fewer than the mean asked, down where more, none where as many."""
    moe, _ = drawn(SMALL)
    moe.router.move_bias(torch.tensor([10, 4, 6, 4]), 0.25)
    assert moe.router.bias_e.tolist() == [-0.25, 0.25, 0.0, 0.25]


# ---------------------------------------------------------------------------- a layer in parts


@every_kind
def test_a_layer_in_parts_is_the_layer(more):
    """Route, experts, join, each cut from the others' graphs: values and every gradient, though
    only gradients travel back between them."""
    plan = SMALL.but(**more)
    model = Transformer(plan, only=("layer0",))
    init_weights(model, plan)
    x = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole = x.clone().requires_grad_()
    y = model.forward_unit("layer0", whole, HERE)
    y.backward(dy)
    truth = {name: w.grad for name, w in model.named_parameters()}
    model.zero_grad()

    mine = x.clone().requires_grad_()
    routed = run_part(model, "layer0.route", Flow(mine), HERE, ())
    assert routed.skip is not None
    each = routed.skip.routed.counts
    rows = routed.x.detach().requires_grad_()
    made = run_part(model, "layer0.experts", Flow(rows), HERE, each)
    results, skip = made.x.detach().requires_grad_(), routed.skip.leaf()
    out = run_part(model, "layer0.join", Flow(results, skip), HERE, ())
    torch.testing.assert_close(out.x, y, rtol=0, atol=0)
    out.x.backward(dy)
    made.x.backward(results.grad)
    past = [torch.zeros_like(t) if t.grad is None else t.grad for t in skip.tensors]
    torch.autograd.backward([routed.x, *routed.skip.tensors], [rows.grad, *past])
    torch.testing.assert_close(mine.grad, whole.grad, rtol=1e-12, atol=1e-14)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, truth[name], rtol=1e-12, atol=1e-14)


@every_kind
def test_what_is_sent_and_put_back_unchanged_is_weighed_by_its_gates(more):
    moe, x = drawn(SMALL.but(**more))
    routed = moe.route(x, HERE)
    back = put_back(send(x, routed.rows), routed.rows, x.shape, None)
    weights = torch.zeros(32, dtype=torch.float64)
    weights.index_add_(0, routed.rows.tokens, routed.rows.gates.detach())
    torch.testing.assert_close(back, x * weights.view(4, 8, 1))
