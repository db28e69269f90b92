"""On real ranks: our tensor-parallel step beside torch's, gradient by gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.distributed.tensor.debug import CommDebugMode

from parallel_core.bench import tensor_ranks
from parallel_core.bench.tensor_peer import Peer
from parallel_core.bench.tensor_ranks import Ours
from parallel_core.params import cuts, param_specs
from parallel_core.plan import Plan
from parallel_core.rank import Rank, choose_backend
from parallel_core.runtime import join


@contextmanager
def both_sides(
    rank: Rank, flat: dict[str, Any], *, cut_loss: bool = True
) -> Iterator[tuple[Ours, Peer]]:
    """Ours and the peer under one plan, ready to step."""
    plan = Plan.of(**flat)
    device = join(rank, plan, choose_backend(rank.local_size))
    ours = Ours(plan, rank, device, norm=True)
    try:
        yield ours, Peer(plan, ours.kernels.load, device, norm=True, cut_loss=cut_loss)
    finally:
        ours.lanes.close()


def beside_dtensor(rank: Rank, *, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every case on this rank: both sides' losses and norms, and how far gradients stand apart."""
    return [_one(rank, **case) for case in cases]


def _one(
    rank: Rank, plan: dict[str, Any], cut_loss: bool, unsummed: bool = False
) -> dict[str, Any]:
    apart: dict[str, float] = {}
    with both_sides(rank, plan, cut_loss=cut_loss) as (ours, peer):
        if unsummed:  # a planted fault: the gradient of what enters a region stays a part
            ours.kernels.model.region.summed = lambda x: x.clone()
        for _ in range(2):
            ours.step()
            peer.step()
            for name, far in _apart(ours, peer).items():
                apart[name] = max(far, apart.get(name, 0.0))
    return {
        "losses": [ours.losses, peer.losses],
        "norms": [ours.norms, peer.norms],
        "apart": apart,
    }


def _apart(ours: Ours, peer: Peer) -> dict[str, float]:
    """How far each slice of a gradient stands from the peer's, as a share of the whole's largest.

    A key's bias moves all scores of a row alike, so that its gradient is zero but for rounding: it
    is measured by the query's.
    """
    plan, me = ours.kernels.plan, ours.kernels.model.region.me
    mine, theirs = ours.gradients(), peer.gradients()
    assert set(mine) == set(theirs) == {spec.name for spec in param_specs(plan)}
    far = {}
    for spec in param_specs(plan):
        whole: Tensor = theirs[spec.name]
        at = whole
        for part in cuts(plan, spec, {"tp": me}):
            at = at.narrow(part.dim, part.start, part.stop - part.start)
        largest = theirs[spec.name.replace("attn.k.bias", "attn.q.bias")].abs().max()
        far[spec.name] = float((mine[spec.name] - at).abs().max() / largest)
    return far


def messages(rank: Rank, *, plans: list[dict[str, Any]]) -> list[list[dict[str, int]]]:
    """Messages of one step under each plan by op, ours and the peer's."""
    return [_messages(rank, flat) for flat in plans]


def _messages(rank: Rank, flat: dict[str, Any]) -> list[dict[str, int]]:
    with both_sides(rank, flat) as (ours, peer):
        ours.comm.log.clear()
        ours.step()
        with CommDebugMode() as mode:
            peer.step()
    theirs = {str(op).split(".")[-1]: n for op, n in mode.get_comm_counts().items()}
    return [dict(Counter(sent.op for sent in ours.comm.log)), theirs]


def halved(rank: Rank, **args: Any) -> dict[str, Any]:
    """The contest with a peer that trains at half the learning rate."""

    class Halved(Peer):
        def __init__(self, *of: Any, **how: Any) -> None:
            super().__init__(*of, **how)
            for group in self.optimizer.param_groups:
                group["lr"] /= 2

    tensor_ranks.Peer = Halved  # in this rank's own process
    return tensor_ranks.contend(rank, **args)
