"""The backward in two halves: the same gradients, nothing twice, nothing held that W needs not."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import get_gradient_edge
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from parallel_core.activations.expert_rows import Load
from parallel_core.activations.held import held_bytes
from parallel_core.activations.meter import metering
from parallel_core.activations.saved import saved_bytes
from parallel_core.deferred import Deferred, install
from parallel_core.kernels import TrainKernels
from parallel_core.layers import Linear
from parallel_core.model import Head, Place, Table, Transformer, init_weights, loss_sum
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.text import Sampler

SMALL = Plan.of(hidden=32, layers=2, heads=4, seq=16, global_batch=6, microbatches=3)
SHAPES = {
    "llama": SMALL,
    "llama gqa": SMALL.but(kv_heads=2),
    "llama mqa tied": SMALL.but(kv_heads=1, tied=True, ffn=40),
    "gpt": SMALL.but(dialect="gpt", vocab=300),
    "gpt tied dropout": SMALL.but(dialect="gpt", tied=True, dropout=0.2),
    "gpt one row": SMALL.but(dialect="gpt", global_batch=3),
}
DTYPES = ("float64", "float32", "bfloat16")
PLANS = {f"{n} {d}": p.but(dtype=d) for n, p in SHAPES.items() for d in DTYPES}
CUTS = {"one stage": (0, 4), "two stages": (0, 2, 4), "a stage a unit": (0, 1, 2, 3, 4)}

every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
every_shape = pytest.mark.parametrize("plan", SHAPES.values(), ids=SHAPES)


class Stages:
    """A model cut into stages, each a graph of its own, and the backward of every microbatch."""

    def __init__(self, plan, cuts=CUTS["a stage a unit"], model=None):
        self.plan, names = plan, units(plan.model)
        self.stages = [names[a:b] for a, b in pairwise(cuts)]
        self.model, self.split = model or Transformer(plan), None
        init_weights(self.model, plan)
        batch = Sampler(plan).batch(0)
        self.ids, self.labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)

    def rows(self, mb):
        size = self.plan.rows_per_microbatch
        return torch.arange(mb * size, (mb + 1) * size)

    def stage(self, s, x, mb):
        """The output of a stage, the loss on the last; `x` is None on the first."""
        place = Place(self.plan.seed, 0, self.rows(mb), torch.arange(self.plan.seq))
        x = self.ids[self.rows(mb)] if x is None else x
        for unit in self.stages[s]:
            x = self.model.forward_unit(unit, x, place)
        return loss_sum(x, self.labels[self.rows(mb)]) / self.ids.numel() if unit == "head" else x

    def forward(self, mb, queues=None):
        """Per stage its (input, output), with a queue a stage for W; the first has no input."""
        x, kept = None, []
        for s in range(len(self.stages)):
            with self.split.into(queues[s]) if queues else nullcontext():
                y = self.stage(s, x, mb)
            kept.append((x, y))
            x = y.detach().requires_grad_()
        return kept

    def forward_and_send(self, mb, queues=None):
        """The same, but the graph's edge in the output's place, whose bytes are gone when sent."""
        x, kept = None, []
        for s in range(len(self.stages)):
            with self.split.into(queues[s]) if queues else nullcontext():
                y = self.stage(s, x, mb)
            kept.append((x, get_gradient_edge(y)))
            x, storage = y.detach().clone().requires_grad_(), StorageWeakRef(y.untyped_storage())
            del y
            assert storage.expired()
        return kept

    def backward(self, kept):
        """Last stage first; the gradients of the inputs."""
        dy, inputs = None, []
        for x, y in reversed(kept):
            torch.autograd.backward(y, dy)
            dy = None if x is None else x.grad
            inputs.append(dy)
        return inputs[:-1]

    def queues(self):
        """A queue a stage, for one microbatch."""
        self.split = self.split or install(self.model)
        return [Deferred() for _ in self.stages]

    def grads(self):
        return {n: None if w.grad is None else w.grad for n, w in self.model.named_parameters()}


def _same(ours, truth):
    torch.testing.assert_close(ours, truth, rtol=0, atol=0)


def _whole(plan, cuts, together=False):
    """Autograd's own backward, microbatch after microbatch; (input gradients, gradients). Experts
    one after another, or all of them through each product `together`."""
    run = Stages(plan, cuts)
    for moe in run.model.routers.values() if together else ():
        moe.experts.deferring = lambda: True
    return [run.backward(run.forward(mb)) for mb in range(plan.microbatches)], run.grads()


# ---------------------------------------------------------------------------- the gradients


def _run_all(queues):
    for queue in reversed(queues):  # as the backward goes: a tied table gets the head's share first
        assert len(queue) > 0
        queue.run()
        assert len(queue) == 0 and queue.bytes == 0


@every_plan
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("delay", [0, 1, 3])
def test_i_then_w_is_the_whole_backward_bit_for_bit(plan, cuts, delay):
    """Every gradient, with W right after its I, one microbatch later, or after the last I."""
    run = Stages(plan, cuts)
    waiting, inputs = [], []
    for mb in range(plan.microbatches):
        waiting.append(run.queues())
        inputs.append(run.backward(run.forward(mb, waiting[-1])))
        while len(waiting) > delay:
            _run_all(waiting.pop(0))
    for queues in waiting:
        _run_all(queues)
    _same((inputs, run.grads()), _whole(plan, cuts))


@every_shape
def test_with_no_queue_open_the_backward_is_whole(plan):
    """A split model serves a schedule that cuts only some of its backwards."""
    run = Stages(plan)
    queues = run.queues()
    inputs = [
        run.backward(run.forward(0)),
        run.backward(run.forward(1, queues)),
    ]
    _run_all(queues)
    inputs.append(run.backward(run.forward(2)))
    _same((inputs, run.grads()), _whole(plan, CUTS["a stage a unit"]))


@every_shape
def test_i_makes_no_gradient_but_the_norms_and_the_inputs(plan):
    """After I a product's weight and bias have none; each product queued one piece of work."""
    run = Stages(plan)
    queues = run.queues()
    run.backward(run.forward(0, queues))
    made = {name for name, grad in run.grads().items() if grad is not None}
    assert made == {name for name in run.grads() if "norm." in name}
    llama = plan.model.dialect == "llama"
    in_embed, in_layer = (1, 7) if llama else (2, 6)
    assert [len(queue) for queue in queues] == [in_embed, in_layer, in_layer, 1]


@every_shape
def test_i_and_w_may_run_on_any_thread(plan):
    """The queue travels with the graph: a thread that opened none finds it."""
    run, inputs = Stages(plan), []
    for mb in range(plan.microbatches):
        queues = run.queues()
        kept = run.forward(mb, queues)
        with ThreadPoolExecutor(1) as other:
            inputs.append(other.submit(run.backward, kept).result())
        with ThreadPoolExecutor(1) as another:
            another.submit(_run_all, queues).result()
    _same((inputs, run.grads()), _whole(plan, CUTS["a stage a unit"]))


def test_a_forward_that_fails_closes_its_queue():
    """An error inside the block leaves no queue open for the next forward."""
    split = install(Transformer(SMALL))
    with pytest.raises(RuntimeError, match="stop"), split.into(Deferred()):
        raise RuntimeError("stop")
    assert split.queue is None


def test_running_an_empty_queue_does_nothing():
    """A second W is no error."""
    Deferred().run()


def _node_names(fn):
    seen, left = set(), [fn]
    while left:
        fn = left.pop()
        if fn is not None and fn not in seen:
            seen.add(fn)
            left += [after for after, _ in fn.next_functions]
    return {node.name() for node in seen}


@every_shape
def test_without_an_open_queue_the_graph_is_torchs_own(plan):
    """The oracle's model is untouched, and so are the forwards of a split one outside a queue."""
    native, split = Stages(plan), Stages(plan)
    split.queues()
    assert Linear.product is F.linear and Head.product is F.linear
    assert Table.look_up is F.embedding
    assert not [m for m in native.model.modules() if {"product", "look_up"} & set(vars(m))]
    for (_, ours), (_, truth) in zip(split.forward(0), native.forward(0), strict=True):
        assert _node_names(ours.grad_fn) == _node_names(truth.grad_fn)
    assert "_LinearBackward" in _node_names(split.forward(0, split.queues())[-1][1].grad_fn)


# ---------------------------------------------------------------------------- experts

MIXED = SMALL.but(experts=4, ffn=24, dtype="float64")
ROUTED = {
    "llama": MIXED.but(balance="aux", z_loss=0.01, kv_heads=2),
    "llama flooded": MIXED.but(top_k=1, skew=30, router="capacity"),
    "llama shared, sigmoid": MIXED.but(shared_experts=1, score="sigmoid", balance="bias"),
    "gpt experts choose": MIXED.but(dialect="gpt", router="expert-choice", shared_experts=1),
    "gpt float32": MIXED.but(dialect="gpt", dtype="float32", tied=True),
    "llama bfloat16": MIXED.but(dtype="bfloat16", router="capacity"),
}
every_routed = pytest.mark.parametrize("plan", ROUTED.values(), ids=ROUTED)


@every_routed
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("delay", [0, 2])
def test_experts_and_routers_leave_their_weights_to_w(plan, cuts, delay):
    """Bit for bit, the losses of the routers' own among them, where experts go through a product
    together; close where they go one by one. One that nobody asked for has a gradient of zero."""
    run = Stages(plan, cuts)
    waiting, inputs = [], []
    for mb in range(plan.microbatches):
        waiting.append(run.queues())
        inputs.append(run.backward(run.forward(mb, waiting[-1])))
        while len(waiting) > delay:
            _run_all(waiting.pop(0))
    for queues in waiting:
        _run_all(queues)
    truth = _whole(plan, cuts, together=True)
    _same((inputs, run.grads()), truth)
    if plan.dtype != "bfloat16":  # GELU rounds the last elements of a block by another formula
        near = {"rtol": 1e-4, "atol": 1e-6} if plan.dtype == "float32" else {}
        torch.testing.assert_close((inputs, run.grads()), _whole(plan, cuts), **near)
    if plan.model.skew:
        starved = truth[1]["layer0.moe.experts.up.weight"][-1]
        assert (starved == 0).all()


@every_routed
def test_after_i_experts_and_routers_have_no_gradient(plan):
    """The queue of a layer holds x and dy of the router, of q, k, v, o, of every product of the
    experts and of those that are shared: nothing else is alive, and after W nothing at all."""
    run = Stages(plan)
    queues = run.queues()
    with Seen() as seen:
        run.backward(run.forward(0, queues))
        made = {name: grad for name, grad in run.grads().items() if grad is not None}
        assert made.keys() == {name for name in run.grads() if "norm." in name}
        products = 3 if plan.model.dialect == "llama" else 2
        shared = products if plan.model.shared_experts else 0
        assert len(queues[1]) == 4 + 1 + products + shared
        loads = {}
        for name, moe in run.model.routers.items():
            sent = sum(moe.routed.counts)
            loads[name] = Load(sent, sent)
            moe.routed = None  # the decision, which is told
        held = {}
        for queue in queues:
            for tensor in queue.held_tensors():
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
        del tensor, storage
        buffers = [*run.model.parameters(), *run.model.buffers(), *made.values()]
        assert seen.alive(buffers) == {at: size for at, size in held.items() if size > 8}
        formula = [held_bytes(plan, name, loads.get(name)) for name in units(plan.model)]
        assert [queue.bytes for queue in queues] == formula
        _run_all(queues)
        assert seen.alive([*buffers, *run.grads().values()]) == {}


@every_routed
def test_with_experts_nothing_is_computed_twice(plan):
    """I and W together run the products of a whole backward, each as often."""
    whole, run = Stages(plan), Stages(plan)
    queues = run.queues()
    kept, kept_whole = run.forward(0, queues), whole.forward(0)
    seen = Seen(), Seen(), Seen()
    with seen[0]:
        whole.backward(kept_whole)
    with seen[1]:
        run.backward(kept)
    with seen[2]:
        _run_all(queues)
    truth, first, second = (each.ops["mm"] for each in seen)
    assert first + second == truth and first < truth / 2 + 1 and second > 0


# ---------------------------------------------------------------------------- where they end


@every_shape
def test_w_ends_in_the_flat_buffer_as_b_does(plan):
    """Hooks run once a weight and a backward; the gradients lie in the flat buffer's own views."""
    calls, flats = (Counter(), Counter()), []
    for halves in (False, True):
        kernels = TrainKernels(plan, 0, None, torch.device("cpu"))
        kernels.flat.grads.fill_(float("nan"))  # the first microbatch writes, it does not add
        run = Stages(plan, model=kernels.model)
        for name, weight in run.model.named_parameters():
            weight.register_post_accumulate_grad_hook(
                lambda _, name=name, seen=calls[halves]: seen.update([name])
            )
        for mb in range(plan.microbatches):
            queues = run.queues() if halves else []
            run.backward(run.forward(mb, queues))
            _run_all(queues)
        buffer = kernels.flat.grads.untyped_storage().data_ptr()
        assert {g.untyped_storage().data_ptr() for g in run.grads().values()} == {buffer}
        flats.append(kernels.flat.grads)
    _same(flats[1], flats[0])
    assert calls[0] == calls[1]


# ---------------------------------------------------------------------------- the work


class Seen(TorchDispatchMode):
    """Every operation that really ran, and every storage it wrote but token ids and positions."""

    def __init__(self):
        super().__init__()
        self.ops, self.storages = Counter(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.ops[func._schema.name.removeprefix("aten::")] += 1
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.int64:
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr(), storage.nbytes()] = StorageWeakRef(storage)
        return out

    def alive(self, known):
        """Address and bytes of what was made here and still exists, but scalars and the known."""
        addresses = {t.untyped_storage().data_ptr() for t in known}
        return {
            at: size
            for (at, size), storage in self.storages.items()
            if not storage.expired() and at not in addresses and size > 8
        }


BOOKKEEPING = {"view", "_unsafe_view", "detach", "t", "transpose", "permute", "alias", "expand",
               "zeros", "new_zeros", "zero_", "new_empty", "ones_like", "fill_"}  # fmt: skip


@every_shape
def test_nothing_is_computed_twice(plan):
    """I and W together run the operations of a whole backward, each as often, and copy nothing."""
    whole, run = Stages(plan), Stages(plan)
    queues = run.queues()
    kept, kept_whole = run.forward(0, queues), whole.forward(0)
    seen = Seen(), Seen(), Seen()
    with seen[0]:
        whole.backward(kept_whole)
    with seen[1]:
        run.backward(kept)
    with seen[2]:
        _run_all(queues)
    truth, first, second = (
        Counter({op: n for op, n in each.ops.items() if op not in BOOKKEEPING}) for each in seen
    )
    assert first + second == truth
    products = 7 if plan.model.dialect == "llama" else 6
    assert second["mm"] == products * plan.model.layers + 1
    assert set(second) <= {"mm", "sum", "embedding_dense_backward", "add_"}


# ---------------------------------------------------------------------------- the memory


@every_shape
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_after_i_only_what_w_needs_is_alive_and_after_w_nothing(plan, cuts):
    """Of all that forward and I made, the queues' storages are left; scores and norms are gone."""
    run = Stages(plan, cuts)
    queues, names = run.queues(), units(plan.model)
    with Seen() as seen:
        run.backward(run.forward(0, queues))
        made = [g for g in run.grads().values() if g is not None]
        known = list(run.model.parameters())
        storages = [t.untyped_storage() for queue in queues for t in queue.held_tensors()]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        del storages
        assert seen.alive([*known, *made]) == held
        assert sum(held.values()) == sum(held_bytes(plan, name) for name in names)
        _run_all(queues)
        assert seen.alive([*known, *run.grads().values()]) == {}


@every_plan
def test_held_bytes_by_formula_are_those_of_the_queue(plan):
    """Unit by unit, both dialects, every dtype, grouped heads, tied tables, one row a batch."""
    run, names = Stages(plan), units(plan.model)
    queues = run.queues()
    run.backward(run.forward(0, queues))
    assert [queue.bytes for queue in queues] == [held_bytes(plan, name) for name in names]


@every_plan
def test_a_forward_with_an_open_queue_keeps_what_any_forward_keeps(plan):
    """Splitting the backward costs no byte between F and I."""
    run, rows = Stages(plan), Stages(plan).rows(0)
    place, x, labels = Place(0, 0, rows, torch.arange(plan.seq)), run.ids[rows], run.labels[rows]
    data = [*run.model.parameters(), x, labels, place.positions]
    for name, queue in zip(units(plan.model), run.queues(), strict=True):
        with metering(data) as meter, run.split.into(queue):
            y = run.model.forward_unit(name, x, place)
            y = loss_sum(y, labels) if name == "head" else y
            meter.note(x)
        assert meter.bytes == saved_bytes(plan, name)
        x = y.detach().requires_grad_()


# ---------------------------------------------------------------------------- the root


@every_shape
@pytest.mark.parametrize("halves", [False, True], ids=["whole", "I and W"])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_an_output_can_be_freed_before_its_backward(plan, halves, cuts):
    """A stage that keeps its output's gradient edge keeps the graph, and not the output's bytes."""
    run, inputs = Stages(plan, cuts), []
    for mb in range(plan.microbatches):
        queues = run.queues() if halves else []
        inputs.append(run.backward(run.forward_and_send(mb, queues)))
        _run_all(queues)
    _same((inputs, run.grads()), _whole(plan, cuts))
