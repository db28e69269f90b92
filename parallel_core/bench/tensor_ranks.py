"""On the ranks: our tensor parallelism and torch's, in the same processes, by turns.

Both train the same model from the same weights on the same batches, each with its own optimizer
state, and both read their loss and their gradient norm once a step. Memory comes first: with one
side built after the other, the allocator tells what each keeps between steps, and a thread that
asks it again and again what a step adds at most.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.bench.interleave import OURS, PEER, take_turns
from parallel_core.bench.ours import Ours
from parallel_core.bench.peaks import kept, watch
from parallel_core.bench.tensor import Race
from parallel_core.bench.tensor_peer import Peer
from parallel_core.plan import Plan
from parallel_core.rank import Rank, choose_backend
from parallel_core.resident import live_bytes
from parallel_core.runtime import join


def contend(rank: Rank, *, plan: dict[str, Any], race: dict[str, Any]) -> dict[str, Any]:
    """The whole contest on one rank: warm-up, memory, then the timed turns; JSON-ready."""
    chosen, settings = Plan.of(**plan), Race(**race)
    backend = choose_backend(rank.local_size)
    device = join(rank, chosen, backend)
    _rehearse(chosen, rank, device, norm=settings.norm)
    read = live_bytes(device)

    def meet() -> None:
        rank.emit({"event": "turn"})
        dist.barrier()

    with kept(read) as ours_keeps:
        ours = Ours(chosen, rank, device, norm=settings.norm)
        for _ in range(settings.warmup):
            ours.step()
    try:
        with kept(read) as peer_keeps:
            peer = Peer(chosen, ours.kernels.load, device, norm=settings.norm)
            for _ in range(settings.warmup):
                peer.step()
        steps = {OURS: ours.step, PEER: peer.step}
        keeps = {OURS: ours_keeps[0], PEER: peer_keeps[0]}
        peaks = watch(steps, keeps, settings.memory_rounds, read=read, meet=meet)
        blocks = take_turns(steps, settings.rounds, settings.turn_steps, meet)
    finally:
        ours.lanes.close()
    return {
        "blocks": [asdict(block) for block in blocks],
        "losses": {OURS: ours.losses, PEER: peer.losses},
        "norms": {OURS: ours.norms, PEER: peer.norms},
        "peaks": peaks,
        "keeps": keeps,
        "backend": backend.name,
        "threads": torch.get_num_threads(),
    }


def _rehearse(plan: Plan, rank: Rank, device: torch.device, *, norm: bool) -> None:
    """A step of each, then both are dropped: what a process needs once is nobody's."""
    ours = Ours(plan, rank, device, norm=norm)
    try:
        peer = Peer(plan, ours.kernels.load, device, norm=norm)
        ours.step()
        peer.step()
    finally:
        ours.lanes.close()
