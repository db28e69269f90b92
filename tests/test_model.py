"""The model and the oracle: names, start, dropout, losses, training on one process."""

import math

import pytest
import torch

from parallel_core.dropout import dropout, grid
from parallel_core.layers import norm
from parallel_core.model import IGNORED, Place, Transformer, draw, init_weights, loss_sum
from parallel_core.oracle import relative_error, train
from parallel_core.params import param_specs, units
from parallel_core.plan import Plan
from parallel_core.text import Sampler

SMALL = Plan.of(hidden=32, layers=2, heads=4, seq=16, global_batch=4, dtype="float64")
SHAPES = {
    "llama": SMALL,
    "llama gqa": SMALL.but(kv_heads=2),
    "llama mqa tied": SMALL.but(kv_heads=1, tied=True, ffn=40),
    "gpt": SMALL.but(dialect="gpt"),
    "gpt tied dropout": SMALL.but(dialect="gpt", tied=True, dropout=0.2),
    "gpt bf16": SMALL.but(dialect="gpt", dtype="bfloat16", vocab=300),
}
every_shape = pytest.mark.parametrize("plan", SHAPES.values(), ids=SHAPES)


def _model(plan):
    model = Transformer(plan)
    init_weights(model, plan)
    return model


def _place(plan, rows=None, step=0):
    rows = torch.arange(plan.global_batch) if rows is None else rows
    return Place(plan.seed, step, rows, torch.arange(plan.seq))


def _batch(plan, step=0):
    batch = Sampler(plan).batch(step)
    return torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)


def _grads(plan, pieces, step=0):
    """The summed gradient and loss of a batch that goes through piece by piece."""
    model, (ids, labels), loss = _model(plan), _batch(plan, step), 0.0
    for rows in pieces:
        part = model(ids[rows], labels[rows], _place(plan, rows, step), labels.numel())
        part.backward()
        loss += part.item()
    return loss, {name: w.grad for name, w in model.named_parameters()}


@every_shape
def test_parameters_are_those_of_the_table(plan):
    """Names, order, shapes and dtype are params.py's; a tied weight is listed once."""
    weights = dict(Transformer(plan).named_parameters())
    assert list(weights) == list(Transformer(plan).state_dict())
    assert {n: tuple(w.shape) for n, w in weights.items()} == {
        spec.name: spec.shape for spec in param_specs(plan)
    }
    assert {str(w.dtype) for w in weights.values()} == {f"torch.{plan.dtype}"}
    assert tuple(Transformer(plan).units) == units(plan.model)


@every_shape
def test_units_one_after_another_are_the_model(plan):
    """forward_unit over the units, then loss_sum, is what the whole model computes."""
    model, (ids, labels) = _model(plan), _batch(plan)
    x = ids
    for unit in units(plan.model):
        x = model.forward_unit(unit, x, _place(plan))
    assert x.shape == (plan.global_batch, plan.seq, plan.model.vocab)
    whole = model(ids, labels, _place(plan), 7)
    torch.testing.assert_close(loss_sum(x, labels) / 7, whole, rtol=0, atol=0)


@every_shape
def test_the_start_depends_on_no_layout(plan):
    """Any slice of any parameter is that slice of the whole, and the model holds exactly that."""
    weights = dict(_model(plan.but(dp=2, microbatches=2)).named_parameters())
    for spec in param_specs(plan):
        whole = draw(spec, plan.seed, 0, spec.numel)
        third = spec.numel // 3
        assert torch.equal(draw(spec, plan.seed, third, spec.numel - 1), whole[third:-1])
        cast = whole.view(spec.shape).to(weights[spec.name].dtype)
        assert torch.equal(weights[spec.name].detach(), cast)


def test_normal_weights_have_the_deviation_of_the_table():
    """Each parameter its own; constants hold their fill; no two parameters share numbers."""
    plan, firsts = Plan.of(dialect="gpt", hidden=64, layers=3, heads=4), []
    for spec in param_specs(plan):
        whole = draw(spec, 0, 0, spec.numel)
        if spec.std is None:
            assert (whole == spec.fill).all()
        else:
            assert abs(whole.std() / spec.std - 1) < 5 / (2 * spec.numel) ** 0.5
            firsts.append(float(whole[0] / spec.std))
    assert len(set(firsts)) == len(firsts) == 3 + 3 * 6


def test_a_slice_may_begin_inside_a_chunk_and_end_in_another():
    """Large parameters are drawn in chunks; that cannot be seen from outside."""
    spec = param_specs(Plan.of(hidden=256, vocab=512))[0]
    whole = draw(spec, 3, 0, spec.numel)
    assert torch.equal(draw(spec, 3, 1000, 100_000), whole[1000:100_000])
    assert abs(whole.std() / spec.std - 1) < 0.01
    assert not torch.equal(draw(spec, 4, 0, 100), whole[:100])


@every_shape
def test_rows_in_pieces_give_the_whole_batch(plan):
    """Halves, and rows out of order: the same loss and gradients, dropout included."""
    rows = torch.arange(plan.global_batch)
    loss, grads = _grads(plan, [rows], step=2)
    for pieces in ([rows[:2], rows[2:]], [rows[[3, 0]], rows[[2, 1]]]):
        again, sums = _grads(plan, pieces, step=2)
        close = 0.1 if plan.mixed else 1e-12
        assert again == pytest.approx(loss, rel=close)
        assert relative_error(sums, grads) < close


def test_dropout_that_ignored_its_rows_would_be_noticed():
    """The claim above can fail: with the rows numbered wrongly the gradients differ."""
    plan, rows = SHAPES["gpt tied dropout"], torch.arange(4)
    model, (ids, labels) = _model(plan), _batch(plan)
    whole = model(ids, labels, _place(plan), 1)
    halves = [model(ids[r], labels[r], _place(plan, torch.arange(2)), 1) for r in rows.split(2)]
    assert abs(sum(halves) - whole) > 1e-6


def test_dropout_changes_with_step_and_site_and_keeps_the_mean():
    """A share p is zero, the rest is scaled by 1/(1-p), and no two masks agree."""
    place = Place(0, 0, torch.arange(50), torch.arange(40))
    index = grid((place.rows, 50), (place.positions, 40), (torch.arange(32), 32))
    x = torch.ones(index.shape, dtype=torch.float64)
    y = dropout(x, 0.25, "here", place, index)
    assert set(y.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs(y.mean() - 1) < 0.01
    later = Place(0, 1, place.rows, place.positions)
    for other in (dropout(x, 0.25, "there", place, index), dropout(x, 0.25, "here", later, index)):
        agree = ((other == 0) == (y == 0)).double().mean()
        assert abs(agree - (0.75**2 + 0.25**2)) < 0.01


def test_dropout_has_four_sites_in_gpt(monkeypatch):
    """GPT-2's: the embedding, the attention probabilities and the two residual branches."""
    plan, seen = SHAPES["gpt tied dropout"], []

    def spy(x, p, site, place, index):
        seen.append(site)
        assert index.shape == x.shape and p == plan.model.dropout
        assert index.unique().numel() == x.numel()  # no two elements share a bit
        return x

    monkeypatch.setattr("parallel_core.model.dropout", spy)
    monkeypatch.setattr("parallel_core.attention.dropout", spy)
    _model(plan)(*_batch(plan), _place(plan), 1)
    layers = [f"layer{i}.{site}" for i in (0, 1) for site in ("attn.probs", "attn.out", "mlp.out")]
    assert seen == ["embed", *layers]


def test_attention_written_out_is_the_fused_kernel():
    """With a dropout too small to drop anything the explicit softmax gives the same model."""
    plan, rows = SHAPES["gpt"], torch.arange(4)
    loss, grads = _grads(plan, [rows])
    again, same = _grads(plan.but(dropout=1e-300), [rows])
    assert again == pytest.approx(loss, rel=1e-13)
    assert relative_error(same, grads) < 1e-12


@every_shape
def test_no_token_sees_a_later_one(plan):
    """Changing the last token changes the last logits only."""
    model, (ids, _) = _model(plan), _batch(plan)
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % plan.model.vocab
    logits = []
    for x in (ids, other):
        for unit in units(plan.model):
            x = model.forward_unit(unit, x, _place(plan))
        logits.append(x)
    torch.testing.assert_close(logits[0][:, :-1], logits[1][:, :-1], rtol=0, atol=0)
    assert (logits[0][:, -1] != logits[1][:, -1]).any()


def test_the_loss_sums_over_valid_tokens():
    """Ignored labels add nothing; the rest adds -log softmax."""
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([[0, IGNORED, 4], [IGNORED, 2, IGNORED]])
    log_p = logits.log_softmax(-1)
    by_hand = -(log_p[0, 0, 0] + log_p[0, 2, 4] + log_p[1, 1, 2])
    torch.testing.assert_close(loss_sum(logits, labels), by_hand)


@pytest.mark.parametrize("dialect", ["gpt", "llama"])
def test_norm_and_loss_are_wide_inside(dialect):
    """bfloat16 is widened to float32 inside norm and loss; float64 is never narrowed."""
    plan = SMALL.but(dialect=dialect)
    exact = norm(plan)
    torch.nn.init.ones_(exact.weight)
    if dialect == "gpt":
        torch.nn.init.zeros_(exact.bias)
    x = torch.randn(1, 1, 32, dtype=torch.float64)
    centred = x - x.mean() if dialect == "gpt" else x
    by_hand = centred / (centred.square().mean() + 1e-5).sqrt()
    torch.testing.assert_close(exact(x), by_hand, rtol=1e-13, atol=1e-13)
    rounded = exact.to(torch.bfloat16)(x.bfloat16())
    in_float32 = exact.float()(x.bfloat16().float())
    torch.testing.assert_close(rounded, in_float32.bfloat16(), rtol=0, atol=0)
    assert (
        loss_sum(torch.zeros(1, 1, 3).bfloat16(), torch.zeros(1, 1).long()).dtype is torch.float32
    )
    assert loss_sum(x, torch.zeros(1, 1).long()).dtype is torch.float64


@every_shape
def test_training_starts_at_chance_and_learns(plan):
    """The first loss is about ln(vocabulary); 20 steps bring it down."""
    run = train(plan.but(lr=3e-3), 20)
    assert run.losses[0] == pytest.approx(math.log(plan.model.vocab), abs=0.1)
    assert run.losses[-1] < run.losses[0] - 0.3
    assert len(run.losses) == len(run.grad_norms) == 20
    norm_0 = sum(g.double().square().sum() for g in run.grads.values()) ** 0.5
    assert run.grad_norms[0] == pytest.approx(float(norm_0))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_oracle_is_independent_of_layout_and_of_chunks(optimizer):
    """Layout fields are ignored, and rows may go through a few at a time."""
    plan = SHAPES["gpt tied dropout"].but(optimizer=optimizer)
    run = train(plan, 4)
    for other in (train(plan.but(dp=2, microbatches=2), 4), train(plan, 4, rows_at_once=1)):
        assert other.losses == pytest.approx(run.losses, rel=1e-12)
        assert relative_error(other.grads, run.grads) < 1e-12
        assert relative_error(other.params, run.params) < 1e-10


def test_snapshots_are_taken_where_the_docstring_says():
    """Gradients before any update; weights after three steps, though training goes on."""
    three, five, none = train(SMALL, 3), train(SMALL, 5), train(SMALL, 0)
    assert relative_error(five.params, three.params) == 0
    assert relative_error(five.grads, three.grads) == 0
    start = {n: w.detach() for n, w in _model(SMALL).named_parameters()}
    assert relative_error(none.params, start) == 0 and none.losses == [] and none.grads == {}
    assert relative_error(three.params, start) > 1e-3


def test_sgd_subtracts_the_gradient_once():
    """The first step by hand, from the recorded gradient."""
    plan = SMALL.but(optimizer="sgd", lr=0.5)
    run, start = train(plan, 1), dict(_model(plan).named_parameters())
    by_hand = {n: w.detach() - 0.5 * run.grads[n] for n, w in start.items()}
    assert relative_error(run.params, by_hand) < 1e-15


def test_masters_take_the_gradient_as_it_is():
    """bfloat16 SGD by hand: the float32 step of the widened weights, rounded once."""
    plan = SMALL.but(optimizer="sgd", lr=0.5, dtype="bfloat16")
    run, start = train(plan, 1), dict(_model(plan).named_parameters())
    by_hand = {n: w.detach().float() - 0.5 * run.grads[n].float() for n, w in start.items()}
    assert relative_error(run.params, {n: w.bfloat16() for n, w in by_hand.items()}) == 0


def test_every_step_has_its_own_gradient():
    """The second step's norm is that of a fresh model at the first step's weights: none adds up."""
    plan = SMALL.but(optimizer="sgd")
    run, model, (ids, labels) = train(plan, 2, snapshot_after=1), Transformer(plan), _batch(plan, 1)
    model.load_state_dict(run.params)
    model(ids, labels, _place(plan, step=1), labels.numel()).backward()
    squares = [w.grad.square().sum() for w in model.parameters()]
    assert run.grad_norms[1] == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-12)


def test_masters_keep_what_bfloat16_would_lose():
    """Steps of 2**-11 on a weight of 1 vanish in bfloat16, and add up in the float32 master."""
    plan = SMALL.but(dtype="bfloat16", lr=2**-11)
    scales = train(plan, 8, snapshot_after=8).params["layer0.attn_norm.weight"]
    assert scales.dtype is torch.bfloat16
    assert (scales != 1).any()


def test_relative_error_is_the_definition():
    """Per tensor against its own largest entry, floored at a thousandth of the largest of all."""
    truth = {"a": torch.tensor([10.0, 1.0]), "zero": torch.tensor([0.0])}
    assert relative_error(truth, truth) == 0
    assert relative_error({**truth, "a": torch.tensor([10.0, 2.0])}, truth) == pytest.approx(0.1)
    noisy = {**truth, "zero": torch.tensor([1e-3])}
    assert relative_error(noisy, truth) == pytest.approx(0.1)
    assert math.isnan(relative_error({**truth, "a": torch.tensor([10.0, math.nan])}, truth))
    with pytest.raises(ValueError, match="zero"):
        relative_error({"a": truth["a"]}, truth)
    with pytest.raises(ValueError, match="a is"):
        relative_error({**truth, "a": torch.zeros(1)}, truth)
