"""The ways in which a plan can be split, made from the plan's own fields.

A *kind* is a question that a layout answers (how are gradients shared, how is a layer cut, ...), a
*way* is one answer. Ways of different kinds go together in one layout; two of one kind never do.
A method that is added to its table (SCHEDULES, METHODS, ...) is a way from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from parallel_core.choices import DPMethod, Recompute
from parallel_core.context import METHODS
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import flat_fields

ACCUMULATE = "accumulate"
"""What stands for "so many times as many microbatches" until all of a layout is known."""

PAIRED_SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe", "dualpipe-v")
"""Schedules that meet every other kind; all of them run alone."""

EXPERTS: Mapping[str, Any] = {"experts": 4, "top_k": 2, "balance": "aux", "shared_experts": 1}
"""The model that expert parallelism needs."""

KNOBS: Mapping[str, str] = {
    "bucket_mb": "how large a message is, not who holds what",
    "prefetch": "how early a message is sent",
    "keep_gathered": "how long a weight stays",
    "parameter_server": "combines with no other way; `shardlab run` holds it against its own truth",
    "staleness_bound": "of a parameter server",
    "speeds": "of a parameter server",
    "pace_ms": "of a parameter server",
    "ulysses": "how cp_method=hybrid divides its ranks; its default is used",
    "overlap_cp": "when a message is sent, on in every run here",
    "recompute_every": "which layers recompute; every one does here",
    "virtual_stages": "the fewest that a schedule takes are used",
    "stage_layers": "where stages are cut; evenly here",
    "cap": "of zb-auto; its default is used",
    "rank_order": "who stands beside whom; tp-cp-dp-pp here",
    "order": "a schedule that the reader brings along",
}
"""Fields of a layout that are no way of their own, and why."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way: the plan's fields that ask for it. `axis` is the field of its degree, if it has one,
    `least` the fewest ranks it needs; only `paired` ones are combined with other kinds."""

    kind: str
    name: str
    title: str
    axis: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    least: int = 2
    paired: bool = True

    def at(self, degree: int) -> dict[str, Any]:
        """Its fields over so many ranks, or the fewest it needs."""
        here = {self.axis: max(degree, self.least)} if self.axis else {}
        return {**here, **self.fields}


KINDS: Mapping[str, str] = {
    "dp": "data parallel",
    "tp": "tensor parallel",
    "pp": "pipeline",
    "cp": "context parallel",
    "ep": "expert parallel",
    "memory": "recompute or offload",
    "batch": "accumulation",
}
"""The kinds, in the order in which names of layouts list them."""


def ways() -> tuple[Way, ...]:
    """Every way of every kind."""
    return tuple(_all())


def by_kind(*, paired: bool = False) -> dict[str, tuple[Way, ...]]:
    """The ways of each kind; only those that are combined, if `paired`."""
    return {k: tuple(w for w in ways() if w.kind == k and (w.paired or not paired)) for k in KINDS}


def _all() -> Iterator[Way]:
    yield from _data()
    yield Way(kind="tp", name="tp", title="tensor parallel", axis="tp")
    sp: dict[str, Any] = {"sp": True}
    yield Way(kind="tp", name="sp", title="tensor and sequence parallel", axis="tp", fields=sp)
    over = {**sp, "overlap_tp": True}
    title = "the same, gathers under the products"
    yield Way(kind="tp", name="sp-overlap", title=title, axis="tp", fields=over, paired=False)
    for name, schedule in SCHEDULES.items():
        chosen, paired = {"schedule": name}, name in PAIRED_SCHEDULES
        yield Way(
            kind="pp", name=name, title=schedule.title, axis="pp", fields=chosen, paired=paired
        )
    for name, method in METHODS.items():
        least = 4 if name == "hybrid" else 2  # two ways of dividing the ranks, two ranks each
        chosen = {"cp_method": name}
        yield Way(kind="cp", name=name, title=method.title, axis="cp", fields=chosen, least=least)
    yield Way(kind="ep", name="ep", title="experts shared out", axis="ep", fields=EXPERTS)
    hops = {**EXPERTS, "ep_node": 2}
    title = "experts shared out, tokens in two hops"
    yield Way(kind="ep", name="ep-hops", title=title, axis="ep", fields=hops, least=4)
    for what in Recompute:
        if what != Recompute.NONE:
            chosen = {"recompute": str(what)}
            yield Way(kind="memory", name=str(what), title=f"{what} recomputation", fields=chosen)
    away = {"offload": True}
    yield Way(kind="memory", name="offload", title="activations offloaded", fields=away)
    more = {ACCUMULATE: 2}
    yield Way(kind="batch", name="accumulate", title="twice the microbatches", fields=more)


def _data() -> Iterator[Way]:
    for method in DPMethod:
        chosen = {"dp_method": str(method)}
        title = f"plain, gradients summed {method}"
        yield Way(kind="dp", name=f"dp-{method}", title=title, axis="dp", fields=chosen)
    for zero in range(1, int(flat_fields()["zero"].metadata["high"]) + 1):
        title = f"ZeRO stage {zero}"
        yield Way(kind="dp", name=f"zero-{zero}", title=title, axis="dp", fields={"zero": zero})
    hybrid = {"zero": 3, "shard": 2}
    title = "HSDP: ZeRO-3 over groups of 2, replicas between them"
    yield Way(kind="dp", name="hsdp", title=title, axis="dp", fields=hybrid)
