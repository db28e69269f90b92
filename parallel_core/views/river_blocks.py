"""What each block of a layer keeps for its backward: its formula with the plan's own letters.

    n tokens of the microbatch     D model width     F MLP width     H heads    S sequence
    E key/value width              K head width      b bytes an element
    w bytes in norms and softmax   t tensor-parallel ranks

A formula is a number and letters; their product is the bytes of saved.py, and a test holds them
equal for every row of every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from parallel_core.activations.formula import block_of, laid_out
from parallel_core.activations.saved import CORE, INPUT, again_bytes, saved_bytes, saved_rows
from parallel_core.plan import Dialect, DType, Plan, Recompute

NORMS = {
    Dialect.GPT: {"input": (1, "oDb"), "mean, 1/std": (2, "ob"), "output": (1, "oDb")},
    Dialect.LLAMA: {
        "input": (1, "oDw"),
        "1/rms": (1, "ow"),
        "normed": (1, "oDb"),
        "output": (1, "oDb"),
    },
}
"""A norm's rows; o stands for the tokens outside tensor-parallel regions."""

REST = {
    "q": (1, "nQb"),
    "k, v": (2, "nEb"),
    "attention output": (1, "nQb"),
    "cos, sin": (4, "SKb"),
    "log-sum-exp": (1, "nHw"),
    "softmax": (1, "nHSb"),
    "softmax dropout": (1, "nHS"),
    "softmax dropped": (1, "nHSb"),
    "attention dropout": (1, "oD"),
    "mlp dropout": (1, "oD"),
    INPUT: (1, "oDb"),
}
"""The other rows; Q is the width of a rank's query heads."""


@dataclass(frozen=True)
class Block:
    """One row: its name, its formula in words, its value, and whether the policy keeps it."""

    name: str
    formula: str
    size: int
    kept: bool


def blocks(plan: Plan, unit: str = "layer0") -> list[Block]:
    """The rows of a layer with nothing recomputed, each marked if the plan's policy keeps it."""
    whole = plan.but(recompute=Recompute.NONE, recompute_every=1)
    kept = saved_rows(plan, unit)
    found = []
    for name, size in saved_rows(whole, unit).items():
        number, letters = formula(plan, name)
        alone = _its_input(plan, name) if kept.keys() == {INPUT} else name in kept
        found.append(Block(name, _text(plan, number, letters), size, alone))
    return found


def _its_input(plan: Plan, name: str) -> bool:
    """Under full recomputation: whether the row is the layer's input, which stays."""
    own = {name for name in (INPUT,) if plan.mixed and plan.model.dialect == Dialect.LLAMA}
    return name in (own or {"attn norm input"})


def formula(plan: Plan, name: str) -> tuple[int, str]:
    """The number and the letters of a row of `saved_rows`."""
    for norm in ("attn norm ", "mlp norm "):
        if name.startswith(norm):
            return NORMS[Dialect(plan.model.dialect)][name.removeprefix(norm)]
    if name == "mlp":
        return (4 if plan.model.dialect == Dialect.LLAMA else 2), "nFb"
    return REST[name]


def value(plan: Plan, number: int, letters: str) -> int:
    """The formula's bytes."""
    sizes = letters_of(plan)
    return number * prod(sizes[letter] for letter in letters)


def letters_of(plan: Plan) -> dict[str, int]:
    """What each letter stands for on a rank of this plan."""
    m, tokens, b = plan.model, plan.rows_per_microbatch * plan.seq, DType(plan.dtype).bytes
    return {
        "n": tokens,
        "o": tokens // (plan.tp if plan.sp else 1),
        "D": m.hidden,
        "Q": m.hidden // plan.tp,
        "E": plan.kv_here * m.head_dim,
        "F": m.mlp // plan.tp,
        "H": m.heads // plan.tp,
        "S": plan.seq,
        "K": m.head_dim,
        "b": b,
        "w": max(b, 4),
    }


def _text(plan: Plan, number: int, letters: str) -> str:
    cut = plan.tp > 1
    names = {"o": "n/t" if plan.sp else "n", "Q": "D/t" if cut else "D"}
    names |= {letter: f"{letter}/t" for letter in "EFH" if cut}
    words = [names.get(letter, letter) for letter in letters]
    return "·".join([*([str(number)] if number > 1 else []), *words])


def legend(plan: Plan) -> str:
    """The letters with their values, in one sentence."""
    m, size = plan.model, letters_of(plan)
    t = f", t = {plan.tp}" if plan.tp > 1 else ""
    return (
        f"n = {size['n']:,} tokens a microbatch, D = {m.hidden}, F = {m.mlp}, H = {m.heads} heads, "
        f"S = {plan.seq}, E = {m.kv * m.head_dim}, K = {m.head_dim}, b = {size['b']} and "
        f"w = {size['w']} bytes{t}"
    )


def account(plan: Plan, measured: int | None = None, unit: str = "layer0") -> str:
    """The table's sum in words; `measured` is what the run's layer was seen to keep."""
    whole = saved_bytes(plan.but(recompute=Recompute.NONE, recompute_every=1), unit)
    kept, again = saved_bytes(plan, unit), again_bytes(plan, unit)
    core = sum(block.size for block in blocks(plan, unit) if block.name in CORE)
    lines = [f"A layer makes {whole:,} bytes for its backward and keeps {kept:,} of them"]
    lines[0] += f": {laid_out(plan, block_of(plan), unit).text}."
    if core:
        lines.append(f"The core of attention is {core / whole:.0%} of the whole.")
    if plan.recompute_in(unit) != Recompute.NONE:
        room = f"{again:,} bytes beyond what was kept" if again else "no more room than was kept"
        lines.append(f"Its backward computes the rest again, and takes {room} at its fullest.")
    if measured is not None:
        same = "the same to the byte" if measured == kept else "NOT the same"
        lines.append(f"Measured on live tensors: {measured:,}, {same}.")
    return " ".join(lines)
