"""On real ranks: context-parallel attention beside the formula written out in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.context import layout_of
from parallel_core.context import ring as ring_file
from parallel_core.context.attention import attention
from parallel_core.context.context import Context
from parallel_core.context.layout import AXIS, HEADS, RING, Layout
from parallel_core.context.merge import Running
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank, choose_backend

Given = tuple[Tensor, Tensor, Tensor, Tensor]


def cp_mesh(n: int) -> Mesh:
    """All ranks along cp, four of them as 2 x 2 for the hybrid."""
    inside = 2 if n == 4 else 1
    return Mesh(((HEADS, inside), (RING, n // inside)), joins=((AXIS, (HEADS, RING)),))


@lru_cache
def _given(
    sizes: tuple[int, int, int, int], seq: int, cached: int, dtype: torch.dtype, seed: int
) -> Given:
    """The whole q, k, v and da; keys and values have `cached` more positions."""
    batch, heads, kv_heads, width = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(h: int, s: int) -> Tensor:
        return torch.randn(batch, h, s, width, generator=generator, dtype=torch.float64).to(dtype)

    return draw(heads, seq), *(draw(kv_heads, cached + seq) for _ in "kv"), draw(heads, seq)


@lru_cache
def _truth(
    sizes: tuple[int, int, int, int],
    seq: int,
    cached: int,
    dtype: torch.dtype,
    seed: int,
    causal: bool,
) -> list[Tensor]:
    """a, dq, dk, dv in float64, by softmax and autograd."""
    q, k, v, da = (x.double().clone() for x in _given(sizes, seq, cached, dtype, seed))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    each = sizes[1] // sizes[2]
    k_h, v_h = (x.repeat_interleave(each, dim=1) for x in leaves[1:])
    scores = q @ k_h.mT / math.sqrt(sizes[3])
    if causal:
        late = torch.arange(cached + seq)[None] > cached + torch.arange(seq)[:, None]
        scores = scores.masked_fill(late, -math.inf)
    a = torch.softmax(scores, dim=-1) @ v_h
    return [a.detach(), *torch.autograd.grad(a, leaves, da)]


def _cut(x: Tensor, at: tuple[int, ...], end: int) -> Tensor:
    """Positions `at` of x; padding is NaN, so that nothing can have looked at it unnoticed."""
    real = [p for p in at if p < end]
    padding = x.new_full((*x.shape[:2], len(at) - len(real), x.shape[3]), math.nan)
    return torch.cat([x[:, :, real], padding], dim=2)


def _keys(layout: Layout, rank: int, x: Tensor) -> Tensor:
    old = _cut(x[:, :, : layout.cached], layout.cached_positions(rank), layout.cached)
    return torch.cat([old, _cut(x, layout.positions(rank), layout.cached + layout.seq)], dim=2)


def _queries(layout: Layout, rank: int, x: Tensor) -> Tensor:
    return _cut(x, tuple(p - layout.cached for p in layout.positions(rank)), layout.seq)


def _worst(mine: Tensor, right: Tensor, whole: Tensor) -> float:
    """The largest error over the largest entry of the whole; padding must be zero."""
    difference = (mine.double() - right.nan_to_num(0.0)).abs().max() / whole.abs().max()
    return math.inf if difference.isnan() else float(difference)


def _rms(mine: Tensor, right: Tensor) -> float:
    """The error's root mean square over that of the true values."""
    return float((mine.double() - right).norm() / right.norm())


def run_case(comm: Comm, case: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """One case on this rank: errors, and the messages forward and backward."""
    n = comm.mesh.degree(AXIS)
    seq, cached, causal = case["seq"], case.get("cached", 0), case["causal"]
    inside = case.get("ulysses", 2 if n == 4 else 1)
    layout = layout_of(case["method"], seq, ranks=n, ulysses=inside, cached=cached)
    dtype = getattr(torch, case.get("dtype", "float64"))
    merge = getattr(torch, case["merge"]) if "merge" in case else None
    context = Context(comm, layout, method=case["method"], causal=causal, merge=merge)
    context.overlap = case.get("overlap", True)
    sizes = (case.get("batch", 2), case.get("heads", 4), case["kv_heads"], case.get("width", 8))
    q, k, v, da = _given(sizes, seq, cached, dtype, seed)
    mine = [_queries(layout, context.me, q), *(_keys(layout, context.me, x) for x in (k, v))]
    leaves = [x.requires_grad_() for x in mine]
    comm.log.clear()
    a = attention(*leaves, context)
    forward = in_order(comm.log)
    comm.log.clear()
    da_here = _queries(layout, context.me, da)
    a.backward(da_here.transpose(1, 2).contiguous().transpose(1, 2))  # as a model hands it over
    truth = _truth(sizes, seq, cached, dtype, seed, causal)
    found = [a.detach(), *(x.grad for x in leaves if x.grad is not None)]
    right = [_queries(layout, context.me, x) for x in truth[:2]]
    right += [_keys(layout, context.me, x) for x in truth[2:]]
    return {
        "errors": [_worst(*three) for three in zip(found, right, truth, strict=True)],
        "rms": [_rms(*two) for two in zip(found, right, strict=True)],
        "forward": forward,
        "backward": in_order(comm.log),
    }


def in_order(messages: Iterable[Any]) -> list[list[Any]]:
    """[op, axis, bytes] of messages, counted or predicted."""
    return [[str(m.op), m.axis, m.bytes] for m in messages]


def beside_one_process(rank: Rank, *, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every case on this rank."""
    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    comm = Comm(cp_mesh(rank.world_size), rank.rank)
    return [run_case(comm, case) for case in cases]


def beside_other_axes(rank: Rank, *, cases: list[dict[str, Any]]) -> list[list[float]]:
    """cp = 2 of 4 ranks, inside and outside of another axis; each group its own data."""
    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    told = []
    for axes in (((AXIS, 2), ("dp", 2)), (("tp", 2), (AXIS, 2))):
        mesh = Mesh(axes)
        comm = Comm(mesh, rank.rank)
        other = next(name for name, _ in axes if name != AXIS)
        seed = mesh.coordinate(rank.rank)[other]
        told += [run_case(comm, case, seed)["errors"] for case in cases]
    return told


# ---------------------------------------------------------------------------- overlap


def spans(rank: Rank, *, seq: int, pause: float) -> dict[str, list[list[list[Any]]]]:
    """What a ring noted, with and without overlap, five rounds each; a tile is a pause."""
    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    comm = Comm(cp_mesh(rank.world_size), rank.rank)
    layout = layout_of("zigzag", seq, ranks=rank.world_size)
    leaves = [torch.zeros(1, 2, layout.share, 64, requires_grad=True) for _ in "qkv"]

    def sleep(*args: Any, **named: Any) -> None:
        time.sleep(pause)

    told: dict[str, list[list[list[Any]]]] = {"apart": [], "beside": []}
    back = patch.object(ring_file, "backward_into", sleep)
    with patch.object(Running, "meet", sleep), back:
        for name in ["apart", "beside"] * 5:
            context = Context(comm, layout, overlap=name == "beside", spans=[])
            comm.barrier(AXIS)
            attention(*leaves, context).sum().backward()
            assert context.spans is not None
            told[name].append([[s.what, s.start, s.asked, s.done] for s in context.spans])
    return told


# ---------------------------------------------------------------------------- torch's own


def beside_torch(rank: Rank, *, seq: int) -> list[list[float]]:
    """Differences of a, dq, dk, dv between our ring and torch's, in float32: contiguous with each
    of its rotations, zigzag likewise (torch calls it load balance)."""
    from torch.distributed.tensor.experimental._context_parallel import _attention as theirs

    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    comm = Comm(cp_mesh(rank.world_size), rank.rank)
    group, aten, told = dist.group.WORLD, torch.ops.aten, []
    for method in ("ring", "zigzag"):
        layout = layout_of(method, seq, ranks=rank.world_size)
        whole = _given((2, 4, 4, 8), seq, 0, torch.float32, 0)
        q, k, v, da = (_queries(layout, rank.rank, x) for x in whole)
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        a = attention(*leaves, Context(comm, layout, method=method))
        a.backward(da)
        ours = [a.detach(), *(x.grad for x in leaves)]
        for rotation in ("allgather", "alltoall"):
            theirs.set_rotate_method(rotation)
            theirs._cp_options.enable_load_balance = layout.zigzag
            out, lse, *_ = theirs._templated_ring_attention(
                group, 2, aten._scaled_dot_product_flash_attention_for_cpu, q, k, v, is_causal=True
            )
            grads = theirs._templated_ring_attention_backward(
                group, 2, aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
                da, "grad_out", q, k, v, out, lse, is_causal=True, dropout_p=0.0,
            )  # fmt: skip
            pairs = zip(ours, (out, *grads[:3]), strict=True)
            told.append([float((x - y).abs().max()) for x, y in pairs])
    return told
