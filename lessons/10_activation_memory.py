# %% [markdown]
# # 10 · Activation memory: keep it, cut it, compute it again
#
# Lessons 1 and 6 counted weights, gradients and the optimizer's state. In training they are seldom what is most: every layer of a
# forward leaves tensors behind that its backward will want, for every token of the batch. Tensor parallelism (lesson 9) cuts a part
# of them over its ranks. **Sequence parallelism** cuts the rest. **Recomputation** keeps less and runs a piece of the forward a second
# time; **offloading** sends tensors to the host's memory and fetches them back.
#
# In 25 minutes you will predict what a layer of GPT-3 leaves behind, measure all of these on real processes, to the byte, see that
# not one bit of a gradient changes, and find in a trace the one message that sequence parallelism pays with. The page *Memory river*
# of the app (`shardlab app`) has the knobs.

# %%
import tempfile
from pathlib import Path

import torch
from IPython.display import display
from safetensors.torch import load_file

from parallel_core.activations.classic import differences
from parallel_core.activations.formula import classic
from parallel_core.activations.saved import saved_rows
from parallel_core.cost import wire_bytes
from parallel_core.live import on_one_link, run
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.sizes import step_flops
from parallel_core.views.marks import typical_step
from parallel_core.views.river import River, river
from parallel_core.views.river_lanes import recomputed
from parallel_core.views.river_moments import moments
from parallel_core.views.river_words import account

# %% [markdown]
# ## Predict: one layer of GPT-3
#
# It is 12,288 wide, has 96 heads, and is given one sequence of 2,048 tokens; numbers are 16-bit, a dropout's mask is a byte an
# element. One such tensor of tokens, 2,048 x 12,288, is 50 MB. How many MB does the layer keep until its backward? With tensor
# parallelism over **8** ranks, how many on each of them: an eighth? With sequence parallelism besides? And if softmax and what
# follows it in the core of attention is computed again (*selective*)? If the whole layer is (*full*)? Computing costs time: by how
# many per cent do the FLOPs of a step grow then?

# %%
my_guess_mb = {"keep all": 500, "TP": 63, "TP + SP": 63, "selective": 30, "full": 5}  # change me
my_guess_percent = {"selective": 10, "full": 100}  # change me: FLOPs of a step, how much more

# %% [markdown]
# ## Run: seven ways to train the same four layers
#
# A small model of the same block, float32, dropout and all. `recompute`, `offload`, `tp` and `sp` are fields of the plan; nothing else
# changes. The first gradients of each run go to a file, so that they can be compared. Below, the *river* of a rank: bytes read after
# every instruction (and inside a backward, when what it computes again is at its fullest) under the dashed prediction. Dotted, `R`: a
# forward, once more.

# %%
files = tempfile.TemporaryDirectory()  # gone when the notebook ends
folder = Path(files.name)
model = {"dialect": "gpt", "dropout": 0.1, "layers": 4, "hidden": 64, "heads": 8, "seq": 128,
         "global_batch": 4, "steps": 4, "quiet": True}  # fmt: skip
ways = {
    "keep all": {},
    "selective": {"recompute": "selective"},
    "full": {"recompute": "full"},
    "offload": {"offload": True},
    "TP": {"tp": 2},
    "TP + SP": {"tp": 2, "sp": True},
    "TP + SP, selective": {"tp": 2, "sp": True, "recompute": "selective"},
}
runs = {
    name: run(
        **model, **way, save_grads=str(folder / name), parity=way == ways["TP + SP, selective"]
    )
    for name, way in ways.items()
}


def flow(done, rank=0):
    """The river of one rank in a typical step of a run."""
    step = done.trace.only(at := typical_step(done.trace))
    read = [row for row in done.view.gauge if (row.rank, row.step) == (rank, at)]
    steps = done.view.program
    found = moments(done.plan, steps, step, rank)
    again = recomputed(done.plan, steps, step, rank, readings=read)
    return River(trace=step, rank=rank, moments=found, measured=read, again=again)


for name in ("keep all", "full", "offload"):
    display(river(flow(runs[name])))
    print(f"{name}. {account(flow(runs[name]))}")

# %%
# NBVAL_CHECK_OUTPUT
print("bytes a layer keeps; the most activations on a rank: measured, and equal to the prediction")
for name, done in runs.items():
    layer, memory = done.report["ledger"]["activations"], done.report["ledger"]["memory"]
    assert layer["measured"] == layer["predicted"], "a tensor was kept that no formula has"
    assert not done.report["outline"]["differences"], "a reading is not where it was predicted"
    most, bound = (max(memory[key]["activations"]) for key in ("peak", "predicted_peak"))
    assert most <= bound if done.plan.offload else most == bound, "another peak"
    host = f" or less, and {max(memory['peak']['host']):,} on the host" if done.plan.offload else ""
    print(f"  {name:20}{layer['measured']['layer0']:9,} {bound:11,}{host}")
gradients = {name: load_file(folder / name) for name in runs}
whole = gradients["keep all"]
for name in ("selective", "full", "offload"):
    same = all(torch.equal(whole[key], gradients[name][key]) for key in whole)
    print(f"{name}: all {len(whole)} gradients equal to the last bit, {same}; losses,",
          runs[name].losses == runs["keep all"].losses)  # fmt: skip
for done in runs.values():
    assert all(abs(x - y) < 1e-5 for x, y in zip(done.losses, runs["keep all"].losses, strict=True))
assert runs["TP + SP, selective"].parity < 1e-5

# %% [markdown]
# ## Explain: what a layer leaves behind
#
# Count the tensors that some backward needs. With $s$ tokens, $b$ sequences, width $h$ and $a$ heads, in bytes at 16 bits: the two
# LayerNorms keep their inputs, $2+2$. Attention keeps its input, q, k, v, what its core gives, and a dropout mask: $5\cdot2+1$. The
# MLP keeps its input, both sides of its GELU, $4h$ wide, and a mask: $2+8+8+1$. That is $34sbh$. And the core of attention, written
# out, keeps three tensors of $a$ heads by $s\times s$ scores: softmax, its dropout's mask, what that let through: $2+1+2$. All
# together ([`formula.py`](../parallel_core/activations/formula.py), row by row in [`saved.py`](../parallel_core/activations/saved.py)):
#
# $$sbh\left(34 + 5\frac{as}{h}\right)$$
#
# The second term grows with $s^2$. Your runs are in float32, which makes it $sbh(66 + 9as/h)$, and keep a LayerNorm's mean and
# deviation besides, which the paper leaves out: $16sb$ bytes. A **fused** attention never writes the scores, so it needs no
# recomputation to be rid of them: it *is* one.

# %%
# NBVAL_CHECK_OUTPUT
sizes = {"s": 2048, "b": 1, "h": 12288, "a": 96, "t": 8}
rows = {
    "keep all": {},
    "TP": {"tp": True},
    "TP + SP": {"tp": True, "sp": True},
    "selective": {"tp": True, "sp": True, "recompute": "selective"},
    "full": {"tp": True, "recompute": "full"},
    "full, input cut": {"tp": True, "sp": True, "recompute": "full"},
}
mb = {name: (form := classic().formula(**row)).bytes(**sizes) / 1e6 for name, row in rows.items()}
print("one layer of GPT-3, t = 8")
for name, row in rows.items():
    print(f"  {name:16}{mb[name]:7.1f} MB  {classic().formula(**row).text}")
gpt3 = Plan.of(dialect="gpt", attention="unfused", layers=96, hidden=12288, heads=96, seq=2048,
               vocab=51200, global_batch=1, dtype="bfloat16")  # fmt: skip
more = {kind: 100 * (step_flops(gpt3.but(recompute=kind)) / step_flops(gpt3) - 1)
        for kind in ("selective", "full")}  # fmt: skip
print(
    "FLOPs of a step of GPT-3:",
    ", ".join(f"{kind} {100 + each:.1f} %" for kind, each in more.items()),
)
ours = Plan.of(**{name: value for name, value in model.items() if name not in ("steps", "quiet")})
print(
    "your layer's rows:",
    ", ".join(f"{name} {size:,}" for name, size in saved_rows(ours, "layer0").items()),
)
for one in differences(ours):
    print(f"  beside the paper's: {one.row} {one.bytes:,}, {one.why}")

# %%
print(f"You said {my_guess_mb} MB and {my_guess_percent} % more FLOPs.")
alone = ("keep all", "selective", "full", "offload")
level = dict(zip(alone, on_one_link([runs[name] for name in alone]), strict=True))
print("a step, by the wall clock and on own devices; ranges over steps")
for name, done in level.items():
    words = []
    for trace in (done.trace, done.own):
        each = sorted(trace.only(step).makespan / 1e6 for step in trace.steps[1:])
        words.append(f"{each[len(each) // 2]:6.1f} ms ({each[0]:.1f} to {each[-1]:.1f})")
    times = step_flops(done.plan) / step_flops(runs["keep all"].plan)
    print(f"  {name:10}{words[0]:32}{words[1]:32}{times:.2f} times the FLOPs")

# %% [markdown]
# ## See: the price of computing again
#
# **Full** recomputation runs every layer's forward a second time. A backward costs two forwards, so a step of three becomes one of
# four: a third more, and all that stays of a layer is its input, $2sbh$. But see the river: while a layer's backward runs, *that*
# layer exists in full. The floor is the inputs of all layers, the spike is one layer. **Selective** picks the tensors that are large
# for their FLOPs. For GPT-3 the core is 70 % of the bytes and 0.9 % of the FLOPs. (The paper says 2.7 %: its formula adds
# $12bs^2h$ a layer, a forward *and* a backward of the core; what is run again is the forward, $4bs^2h$.) On *your* machine it costs
# more than its FLOPs: softmax has few, and moves many bytes. **Offloading** computes nothing twice and wants a wire to the
# host that is done in time: the copy of a layer hides under the next one's forward, or the compute lane waits.
#
# The second forward does the same operations on the same numbers, dropout too: its bits are a hash of where they stand, not of how
# often anybody asked ([`recompute.py`](../parallel_core/activations/recompute.py), [`dropout.py`](../parallel_core/dropout.py)). So
# the gradients are *bitwise* those of the run that kept all. Now back to the ranks: TP over 8 did not leave an eighth. Why?


# %%
# NBVAL_CHECK_OUTPUT
def inside(name, op):
    """Messages inside one layer's task, as rank 0 stamped them: op, what, bytes on the wire."""
    step = runs[name].trace.only(1).by_rank[0]
    span = next(span for span in step if (span.op, span.where) == (op, "layer1"))
    return [
        (kind, what.split("[")[0], wire_bytes(Op(kind), size, 2))
        for kind, _, what, size, *_ in span.inside
    ]


for op, task in (("F", "forward"), ("B", "backward")):
    for name in ("TP", "TP + SP"):
        found = inside(name, op)
        print(
            f"{task} of a layer, {name}: {sum(size for *_, size in found):,} bytes leave both ranks"
        )
        print("   ", ", ".join(f"{kind} {what}" for kind, what, _ in found))
for name in ("keep all", "TP", "TP + SP"):
    rows = saved_rows(runs[name].plan, "layer0")
    outside = [row for row in rows if "norm" in row or row in ("attention dropout", "mlp dropout")]
    print(f"norms and dropout masks of a layer, {name}: {sum(map(rows.get, outside)):,} bytes")

# %% [markdown]
# ## Explain: sequence parallelism is nearly free
#
# Tensor parallelism cuts what lies *inside* its two regions, between column and row: $24$ of the 34, and the scores. Norms and
# dropouts stand outside, every rank computes all of them alike, and keeps all of them: $10sbh$ that no $t$ makes smaller.
#
# But a norm or a dropout looks at one token at a time, so they can be cut along the sequence: each rank takes $s/t$ tokens. Then a
# region must *gather* the tokens at its door, and instead of an all-reduce at its end it *scatters* the sum. An all-reduce **is** a
# reduce-scatter and an all-gather (lesson 3): the forward above moves the same bytes, to the byte, and $34/t$ remains. The price
# stands in the backward. To make the gradient of its weights a region needs its input whole, and what was kept is the rank's
# shard; so it is gathered `again`, one more all-gather a region, two a layer. It can be sent while the input's gradient is
# computed ([`conjugate.py`](../parallel_core/tensor/conjugate.py)). Korthikanti et al. 2022, arXiv:2205.05198.
#
# ## Exercise
#
# Two functions and a layout. `keeps` is the whole table as one formula, held against GPT-3's numbers and the bytes that *your* seven
# runs kept. `backward_price` names what sequence parallelism sends in the backward that tensor parallelism does not: from the list
# of messages that `inside` returns, the ones that are too many. `my_layout` trains on **2 ranks** with at most **6.5 MB** of
# activations on a rank at the peak and at most **10 %** more FLOPs than keeping all.


# %%
def keeps(size, t=1, sp=False, recompute="none", e=2):
    """Bytes of a classic layer on one of t ranks; `size` has s, b, h and a; e bytes an element."""
    raise NotImplementedError


def backward_price(messages):
    """Those of [(op, what, wire bytes), ...] in a backward under sp that have no counterpart in tp."""
    raise NotImplementedError


def my_layout():
    """Fields for run(), as in {"tp": 2, "recompute": "full"}."""
    raise NotImplementedError


# %% tags=["raises-exception"]
layer = {"s": 2048, "b": 1, "h": 12288, "a": 96}
found = [keeps(layer), *(keeps(layer, t=8, sp=sp) for sp in (False, True))]
found += [keeps(layer, t=8, sp=True, recompute=kind) for kind in ("selective", "full")]
assert [round(size / 1e6, 1) for size in found] == [2868.9, 578.8, 358.6, 107.0, 6.3], found
for name, done in runs.items():  # your own runs: 4 bytes an element, and a LayerNorm's statistics
    plan = done.plan
    cut = {"t": plan.tp, "sp": plan.sp, "recompute": plan.recompute, "e": 4}
    tokens = plan.rows_per_microbatch * plan.seq
    statistics = 0 if plan.recompute == "full" else 16 * tokens // (plan.tp if plan.sp else 1)
    shape = {
        "s": plan.seq,
        "b": plan.rows_per_microbatch,
        "h": plan.model.hidden,
        "a": plan.model.heads,
    }
    size, kept = keeps(shape, **cut), done.report["ledger"]["activations"]["measured"]["layer0"]
    assert size + statistics == kept, f"{name}: {size} + {statistics} is not the {kept} of your run"
forward = [sum(size for *_, size in inside(name, "F")) for name in ("TP", "TP + SP")]
assert forward[0] == forward[1], "the forwards of your runs send different bytes"
extra, sent = backward_price(inside("TP + SP", "B")), inside("TP + SP", "B")
rest = sum(size for *_, size in sent) - sum(size for *_, size in extra)
assert len(extra) == 2 and {kind for kind, *_ in extra} == {"all_gather"}, extra
assert rest == sum(size for *_, size in inside("TP", "B")), "what is left is not what TP sends"
assert all(what == "again" for _, what, _ in extra), "that gather carries a gradient, not an input"
mine = run(**{**model, **my_layout()}, parity=False)
memory = mine.report["ledger"]["memory"]["peak"]
price = step_flops(mine.plan) / step_flops(runs["keep all"].plan)
assert mine.plan.world_size == 2, f"{mine.plan.layout} is not two ranks"
assert max(memory["activations"]) <= 6.5e6, (
    f"{max(memory['activations']):,} bytes are over the budget"
)
assert price <= 1.1, f"{price:.2f} times the FLOPs"
assert all(abs(x - y) < 1e-4 for x, y in zip(mine.losses, runs["keep all"].losses, strict=True))
print(
    f"All true. Yours, {mine.plan.layout}: {max(memory['activations']):,} bytes, {price:.3f} times the FLOPs"
)


# %% tags=["solution"] jupyter={"source_hidden": true}
def keeps(size, t=1, sp=False, recompute="none", e=2):
    """Bytes of a classic layer on one of t ranks; `size` has s, b, h and a; e bytes an element."""
    sb, outer = size["s"] * size["b"], t if sp else 1
    if recompute == "full":
        return e * sb * size["h"] // outer
    core = 0 if recompute == "selective" else (2 * e + 1) * size["a"] * size["s"] * sb // t
    return (4 * e + 2) * sb * size["h"] // outer + 12 * e * sb * size["h"] // t + core


def backward_price(messages):
    """Those of [(op, what, wire bytes), ...] in a backward under sp that have no counterpart in tp."""
    return [message for message in messages if message[1] == "again"]


def my_layout():
    """TP and SP cut all that is kept; the core of attention is computed again."""
    return {"tp": 2, "sp": True, "recompute": "selective"}


# %%
layer = {"s": 2048, "b": 1, "h": 12288, "a": 96}
found = [keeps(layer), *(keeps(layer, t=8, sp=sp) for sp in (False, True))]
found += [keeps(layer, t=8, sp=True, recompute=kind) for kind in ("selective", "full")]
assert [round(size / 1e6, 1) for size in found] == [2868.9, 578.8, 358.6, 107.0, 6.3], found
for name, done in runs.items():  # your own runs: 4 bytes an element, and a LayerNorm's statistics
    plan = done.plan
    cut = {"t": plan.tp, "sp": plan.sp, "recompute": plan.recompute, "e": 4}
    tokens = plan.rows_per_microbatch * plan.seq
    statistics = 0 if plan.recompute == "full" else 16 * tokens // (plan.tp if plan.sp else 1)
    shape = {
        "s": plan.seq,
        "b": plan.rows_per_microbatch,
        "h": plan.model.hidden,
        "a": plan.model.heads,
    }
    size, kept = keeps(shape, **cut), done.report["ledger"]["activations"]["measured"]["layer0"]
    assert size + statistics == kept, f"{name}: {size} + {statistics} is not the {kept} of your run"
forward = [sum(size for *_, size in inside(name, "F")) for name in ("TP", "TP + SP")]
assert forward[0] == forward[1], "the forwards of your runs send different bytes"
extra, sent = backward_price(inside("TP + SP", "B")), inside("TP + SP", "B")
rest = sum(size for *_, size in sent) - sum(size for *_, size in extra)
assert len(extra) == 2 and {kind for kind, *_ in extra} == {"all_gather"}, extra
assert rest == sum(size for *_, size in inside("TP", "B")), "what is left is not what TP sends"
assert all(what == "again" for _, what, _ in extra), "that gather carries a gradient, not an input"
mine = run(**{**model, **my_layout()}, parity=False)
memory = mine.report["ledger"]["memory"]["peak"]
price = step_flops(mine.plan) / step_flops(runs["keep all"].plan)
assert mine.plan.world_size == 2, f"{mine.plan.layout} is not two ranks"
assert max(memory["activations"]) <= 6.5e6, (
    f"{max(memory['activations']):,} bytes are over the budget"
)
assert price <= 1.1, f"{price:.2f} times the FLOPs"
assert all(abs(x - y) < 1e-4 for x, y in zip(mine.losses, runs["keep all"].losses, strict=True))
print(
    f"All true. Yours, {mine.plan.layout}: {max(memory['activations']):,} bytes, {price:.3f} times the FLOPs"
)
