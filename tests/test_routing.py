"""A router's choice is the definition, token by token, however a sequence is cut."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.context import layout_of
from parallel_core.expert.routing import (
    CAPACITY,
    DROPLESS,
    EXPERT_CHOICE,
    ROUTERS,
    SCORES,
    Choice,
    Rules,
    balance_sum,
    beside,
    choose,
    rows_of,
    z_sum,
)

Numbers = list[float]
Pairs = set[tuple[int, int]]


# ---------------------------------------------------------------------------- by hand


def scores_by_hand(logits: Numbers, score: str) -> Numbers:
    if score == "sigmoid":
        return [1 / (1 + math.exp(-x)) for x in logits]
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def best_first(values: Numbers, among: list[int]) -> list[int]:
    return sorted(among, key=lambda i: -values[i])


def wishes(by: Numbers, rules: Rules) -> list[int]:
    """The experts that one token asks for, the best first: of its best groups only."""
    size = rules.experts // rules.groups
    groups = [[*range(g * size, (g + 1) * size)] for g in range(rules.groups)]
    worth = [sum(sorted((by[e] for e in group), reverse=True)[:2]) for group in groups]
    near = best_first(worth, [*range(rules.groups)])[: rules.reach]
    return best_first(by, [e for g in near for e in groups[g]])[: rules.top_k]


def by_hand(logits: list[Numbers], rules: Rules, bias: Numbers) -> tuple[Pairs, Pairs]:
    """(position, expert) pairs of one sequence: asked for, and kept."""
    scores = [scores_by_hand(row, rules.score) for row in logits]
    seq = len(logits)
    places = min(math.ceil(rules.capacity * rules.top_k * seq / rules.experts), seq)
    if rules.router == EXPERT_CHOICE:
        taken = {
            (s, e)
            for e in range(rules.experts)
            for s in best_first([row[e] for row in scores], [*range(seq)])[:places]
        }
        return taken, taken
    lists = [wishes([s + b for s, b in zip(row, bias, strict=True)], rules) for row in scores]
    asked = {(s, e) for s, experts in enumerate(lists) for e in experts}
    if rules.router == DROPLESS:
        return asked, asked
    kept: Pairs = set()
    for k in range(rules.top_k):
        for s, experts in enumerate(lists):
            if sum(e == experts[k] for _, e in kept) < places:
                kept.add((s, experts[k]))
    return asked, kept


def gate_by_hand(logits: Numbers, mine: list[int], e: int, rules: Rules) -> float:
    """How much one expert's result counts for one token, who asked for `mine`."""
    scores = scores_by_hand(logits, rules.score)
    if rules.router == EXPERT_CHOICE or rules.top_k == 1:
        return scores[e]
    return scores[e] / sum(scores[other] for other in mine)


def pairs(mask_se: torch.Tensor) -> Pairs:
    return {(s, e) for s, e in mask_se.nonzero().tolist()}


@st.composite
def every_rules(draw: st.DrawFn) -> Rules:
    experts, groups = draw(st.sampled_from([(2, 1), (4, 1), (4, 2), (6, 3), (8, 1), (8, 4)]))
    router = draw(st.sampled_from(ROUTERS))
    groups = 1 if router == EXPERT_CHOICE else groups
    reach = draw(st.integers(1, groups))
    return Rules(
        experts=experts,
        top_k=draw(st.integers(1, reach * experts // groups)),
        router=router,
        score=draw(st.sampled_from(SCORES)),
        capacity=draw(st.sampled_from([0.1, 0.5, 1.0, 1.25, 3.0])),
        groups=groups,
        reach=reach,
    )


def drawn(rules: Rules, batch: int, seq: int, seed: int, lean: float = 0.0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, seq, rules.experts, generator=made, dtype=torch.float64)
    return logits + torch.linspace(lean, -lean, rules.experts, dtype=torch.float64)


sizes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(0, 9999))
leans = st.sampled_from([0.0, 1.0, 8.0])


# ---------------------------------------------------------------------------- the choice


@given(every_rules(), sizes, leans, st.booleans())
@settings(max_examples=200)
def test_the_choice_is_the_definition(rules, size, lean, biased):
    """Every router, score, capacity and number of groups; with a bias, or none."""
    logits_bse = drawn(rules, *size, lean)
    bias = drawn(rules, 1, 1, size[2] + 1)[0, 0] if biased else None
    choice = choose(logits_bse, rules, bias)
    plain = [0.0] * rules.experts if bias is None else bias.tolist()
    for b, logits in enumerate(logits_bse.tolist()):
        asked, kept = by_hand(logits, rules, plain)
        assert pairs(choice.asked[b]) == asked
        assert pairs(choice.kept[b]) == kept


@given(every_rules(), sizes, leans, st.booleans())
@settings(max_examples=200)
def test_rows_are_the_kept_choices_and_their_gates(rules, size, lean, biased):
    """Expert by expert, a token's in order of its place; a bias changes no gate but by the choice,
    and what is dropped keeps its share of a token's gates: nobody else gets it."""
    logits_bse = drawn(rules, *size, lean)
    bias = drawn(rules, 1, 1, size[2] + 1)[0, 0] if biased else None
    choice = choose(logits_bse, rules, bias)
    rows, seq = rows_of(logits_bse, choice, rules), size[1]
    right = [
        (b * seq + s, e)
        for e in range(rules.experts)
        for b in range(size[0])
        for s in range(seq)
        if choice.kept[b, s, e]
    ]
    experts = [e for e, count in enumerate(rows.counts.tolist()) for _ in range(count)]
    assert [*zip(rows.tokens.tolist(), experts, strict=True)] == right
    assert rows.asked.tolist() == choice.asked.sum((0, 1)).tolist()
    every = logits_bse.flatten(0, 1).tolist()
    for gate, (n, e) in zip(rows.gates.tolist(), right, strict=True):
        mine = choice.asked.flatten(0, 1)[n].nonzero().flatten().tolist()
        assert gate == pytest.approx(gate_by_hand(every[n], mine, e, rules), rel=1e-12)


@given(every_rules(), sizes, leans)
def test_no_expert_takes_more_than_it_has_places_for(rules, size, lean):
    """Kept is part of asked; a token asks for k experts, unless experts choose."""
    choice = choose(drawn(rules, *size, lean), rules)
    assert not (choice.kept & ~choice.asked).any()
    loads_be = choice.kept.sum(1)
    if rules.router != EXPERT_CHOICE:
        assert (choice.asked.sum(-1) == rules.top_k).all()
    if rules.router == EXPERT_CHOICE:
        assert (loads_be == rules.places(size[1])).all()
    if rules.router == CAPACITY:
        assert (loads_be <= rules.places(size[1])).all()
        full = choice.asked.sum(1).clamp_max(rules.places(size[1]))
        assert (loads_be == full).all()  # nobody is sent away while there is a place


def test_first_choices_come_before_second_ones_and_early_ones_before_late():
    """Three tokens, two experts, two places each: the third token's first choice goes before the
    second choices of those before it."""
    rules = Rules(experts=2, top_k=2, router=CAPACITY, capacity=2 / 3)
    assert rules.places(3) == 2
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    kept = choose(logits, rules).kept[0]
    assert kept.tolist() == [[True, True], [True, False], [False, True]]


def test_one_flooded_expert_takes_the_first_and_the_others_starve():
    rules = Rules(experts=4, top_k=1, router=CAPACITY, capacity=1.0)
    logits = drawn(rules, 2, 16, 0, lean=50.0)
    kept = choose(logits, rules).kept
    assert kept[:, :4, 0].all() and kept.sum() == 2 * 4
    rows = rows_of(logits, choose(logits, rules), rules)
    assert rows.counts.tolist() == [8, 0, 0, 0] and rows.asked.tolist() == [32, 0, 0, 0]


def test_the_gate_of_one_choice_is_its_score():
    """Normalised it would be 1 whatever the router says, and the router would learn nothing."""
    rules = Rules(experts=4, top_k=1)
    logits = drawn(rules, 1, 6, 0).requires_grad_()
    rows = rows_of(logits, choose(logits, rules), rules)
    assert (rows.gates < 1).all()
    rows.gates.sum().backward()
    assert (logits.grad != 0).all()


@pytest.mark.parametrize("score", SCORES)
def test_several_gates_of_a_token_are_parts_of_one(score):
    rules = Rules(experts=8, top_k=3, score=score)
    logits = drawn(rules, 2, 5, 0)
    rows = rows_of(logits, choose(logits, rules), rules)
    sums = torch.zeros(10, dtype=torch.float64).index_add(0, rows.tokens, rows.gates)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_bias_chooses_and_does_not_weigh():
    """It brings in an expert that scores low, whose gate stays as low as its score."""
    rules = Rules(experts=4, top_k=2)
    logits = torch.tensor([[[3.0, 2.0, 1.0, 0.0]]], dtype=torch.float64)
    bias = torch.tensor([0.0, 0.0, 0.0, 9.0], dtype=torch.float64)
    choice = choose(logits, rules, bias)
    assert choice.asked[0, 0].tolist() == [True, False, False, True]
    gates = rows_of(logits, choice, rules).gates
    assert gates.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(3))])


def test_a_group_is_worth_its_two_best_and_nobody_reaches_further():
    """The best single expert stands in a group whose second is poor: its group is not reached."""
    rules = Rules(experts=4, top_k=2, groups=2, reach=1)
    logits = torch.tensor([[[3.0, -9.0, 2.0, 1.9]]], dtype=torch.float64)
    near = choose(logits, replace(rules, score="sigmoid"))
    assert near.asked[0, 0].tolist() == [False, False, True, True]
    free = choose(logits, replace(rules, groups=1, score="sigmoid"))
    assert free.asked[0, 0].tolist() == [True, False, True, False]


# ---------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_which_of_two_like_tokens_an_expert_takes_is_no_matter_of_rounding(dtype):
    """A word said twice at the start of a text gives two tokens that are equal but for the order of
    sums; the earlier one goes in."""
    rules = Rules(experts=4, top_k=1, router=EXPERT_CHOICE, capacity=0.5)
    assert rules.places(8) == 1
    agree = 0
    for seed in range(100):
        alike = drawn(rules, 1, 1, seed).to(dtype).expand(1, 8, 4)
        noise = 1 + torch.finfo(dtype).eps * torch.randn(alike.shape, dtype=dtype)
        agree += int(choose(alike * noise, rules).kept[0].nonzero()[:, 0].tolist() == [0] * 4)
    assert agree == 100 if dtype == torch.float64 else agree > 90


@given(every_rules(), sizes, leans)
def test_a_sequence_is_routed_by_itself(rules, size, lean):
    """Whatever rows of a batch are together on a rank, and whatever they are."""
    logits_bse = drawn(rules, *size, lean)
    whole = choose(logits_bse, rules)
    for b in range(size[0]):
        alone = choose(logits_bse[b : b + 1], rules)
        assert torch.equal(alone.kept[0], whole.kept[b])
        assert torch.equal(alone.asked[0], whole.asked[b])


@given(every_rules(), sizes, leans, st.sampled_from(["zigzag", "ring"]), st.sampled_from([2, 3]))
def test_a_sequence_in_parts_is_routed_as_a_whole(rules, size, lean, method, ranks):
    """Parts that ranks of a context-parallel group hold: each token's rows, gates and its share of
    both losses. Without limits a part needs no other."""
    logits_bse, seq = drawn(rules, *size, lean), size[1]
    layout = layout_of(method, seq, ranks=ranks)
    whole = choose(logits_bse, rules)
    truth = rows_of(logits_bse, whole, rules)
    asked_be = whole.asked.sum(1)
    found: dict[tuple[int, int], float] = {}
    counts, balance, z = torch.zeros_like(truth.counts), 0.0, 0.0
    for rank in range(ranks):
        mine = [p for p in layout.positions(rank) if p < seq]
        part = logits_bse[:, mine]
        choice = Choice(whole.asked[:, mine], whole.kept[:, mine])
        if rules.router == DROPLESS and mine:
            assert torch.equal(choose(part, rules).kept, choice.kept)
        rows = rows_of(part, choice, rules)
        counts += rows.counts
        balance += balance_sum(part, asked_be, rules, seq)
        z += z_sum(part)
        experts = torch.repeat_interleave(torch.arange(rules.experts), rows.counts).tolist()
        for n, e, gate in zip(rows.tokens.tolist(), experts, rows.gates.tolist(), strict=True):
            b, s = divmod(n, len(mine))
            found[b * seq + mine[s], e] = gate
    experts = torch.repeat_interleave(torch.arange(rules.experts), truth.counts).tolist()
    right = dict(
        zip(zip(truth.tokens.tolist(), experts, strict=True), truth.gates.tolist(), strict=True)
    )
    assert found == pytest.approx(right, rel=1e-12)
    assert counts.tolist() == truth.counts.tolist()
    torch.testing.assert_close(balance, balance_sum(logits_bse, asked_be, rules, seq))
    torch.testing.assert_close(z, z_sum(logits_bse))


@given(every_rules(), sizes)
def test_padding_has_no_loss(rules, size):
    """Positions that are no tokens, marked: the losses are those of the others."""
    logits_bse, seq = drawn(rules, *size), size[1]
    asked_be = choose(logits_bse, rules).asked.sum(1)
    pad_s = torch.arange(seq + 3) >= seq
    padded = torch.cat([logits_bse, drawn(rules, size[0], 3, 7)], dim=1)
    torch.testing.assert_close(z_sum(padded, pad_s=pad_s), z_sum(logits_bse))
    torch.testing.assert_close(
        balance_sum(padded, asked_be, rules, seq, pad_s=pad_s),
        balance_sum(logits_bse, asked_be, rules, seq),
    )


# ---------------------------------------------------------------------------- the router's losses


@given(every_rules(), sizes, leans)
def test_the_auxiliary_loss_is_the_definition(rules, size, lean):
    """E times the sum of f P: which part of its choices an expert got, which part of the scores."""
    seq = size[1]
    logits_bse = drawn(rules, *size, lean)
    choice = choose(logits_bse, rules)
    loss = 0.0
    for b, logits in enumerate(logits_bse.tolist()):
        shares = [scores_by_hand(row, rules.score) for row in logits]
        shares = [[x / sum(row) for x in row] for row in shares]
        for e in range(rules.experts):
            f = int(choice.asked[b, :, e].sum()) / (rules.top_k * seq)
            loss += rules.experts * f * sum(row[e] for row in shares) / seq
    found = balance_sum(logits_bse, choice.asked.sum(1), rules, seq)
    assert float(found) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_auxiliary_loss_is_one_where_all_is_even_and_grows_with_a_lean(score, k):
    rules = Rules(experts=8, top_k=k, score=score)
    even = torch.zeros(3, 16, 8, dtype=torch.float64)
    asked_be = torch.full((3, 8), k * 16 // 8)
    assert float(balance_sum(even, asked_be, rules, 16)) == pytest.approx(3.0, rel=1e-14)
    found = []
    for lean in (0.0, 1.0, 4.0):
        logits = drawn(rules, 3, 16, 0, lean)
        asked = choose(logits, rules).asked.sum(1)
        found.append(float(balance_sum(logits, asked, rules, 16)))
    assert found[0] < found[1] < found[2] <= 3 * 8 / k * (1 + 1e-12)


def test_the_auxiliary_loss_pulls_at_who_has_too_much():
    """Its gradient lowers the flooded expert's logits and raises the starved one's."""
    rules = Rules(experts=4, top_k=1)
    logits = drawn(rules, 2, 16, 0, lean=2.0).requires_grad_()
    balance_sum(logits, choose(logits, rules).asked.sum(1), rules, 16).backward()
    pull_e = logits.grad.sum((0, 1))
    assert pull_e[0] > 0 > pull_e[3]


@given(every_rules(), sizes)
def test_the_z_loss_is_the_definition(rules, size):
    logits_bse = drawn(rules, *size)
    right = sum(
        math.log(sum(math.exp(x) for x in row)) ** 2 for row in logits_bse.flatten(0, 1).tolist()
    )
    assert float(z_sum(logits_bse)) == pytest.approx(right, rel=1e-12)


def test_a_loss_beside_is_added_to_whatever_comes_later():
    """The value goes through untouched; the gradient is that of both losses together."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = beside(x * 1, x.square().sum())
    torch.testing.assert_close(y.detach(), x.detach(), rtol=0, atol=0)
    (3 * y).sum().backward()
    assert x.grad.tolist() == [3 + 2 * 1.0, 3 + 2 * 2.0]
