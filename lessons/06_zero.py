# %% [markdown]
# # 6 · ZeRO, FSDP, HSDP: keep a share, borrow the rest
#
# In lesson 5 every rank kept all weights, all gradients, all of the optimizer's state. But a rank needs a layer's weights only while
# it computes that layer, its whole gradient only until it is summed, and the optimizer's state of a weight only if it is the one that
# updates it. So cut all three over the ranks, and borrow what you do not own when you need it.
#
# In 25 minutes you will predict what that saves and what it costs on the wire, count both on four processes, read the step
# instruction by instruction, and see two proofs fail. The page *Shard bench* of the app (`shardlab app`) has the knobs.

# %%
import re

import torch
from IPython.display import display

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.data.traffic import Sharding
from parallel_core.hardware.links import WIRES
from parallel_core.ledger import peak_state_bytes, predicted_memory
from parallel_core.live import run
from parallel_core.plan import Plan
from parallel_core.program import Program, ProgramError
from parallel_core.prove import prove
from parallel_core.published import table
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.views.river import River, river
from parallel_core.views.river_moments import moments
from parallel_core.views.shards import Stage, stage_bars
from parallel_core.views.shards_traffic import elements, predicted, sent

# %% [markdown]
# ## Predict: 7.5 billion parameters on 64 GPUs
#
# Lesson 1 counted 16 bytes a parameter: bf16 weights (2) and gradients (2), and 12 of the optimizer's, an fp32 master and Adam's two
# moments: **120 GB**, on *each* of 64 GPUs. **Stage 1** of ZeRO cuts the optimizer's state into 64 shards, one a rank; **stage 2**
# the gradients as well; **stage 3** the weights, too. How many GB does a GPU hold then? And as stage 3 must fetch weights for every
# use: how many times the bytes of plain data parallelism does a step of it send?

# %%
my_guess_gb = {1: 60, 2: 30, 3: 15}  # change me: GB of training state on a GPU, by stage
my_guess_ratio = 4.0  # change me: bytes sent, stage 3 to plain data parallelism

# %% [markdown]
# ## Run: one model, four ways, four processes
#
# `zero` is the stage; 0 is lesson 5. The bars are what every rank holds between steps, counted; the diamonds its most at any moment
# within one. Below, the *river* of one rank in a step of stage 3: bytes measured after every instruction, over the lanes that move
# them. Each `G` makes a unit's weights whole, their use lets go of them; each `S` turns a gradient into a shard.


# %%
def state_of(done):
    """The memory half of a run's ledger."""
    return done.report["ledger"]["memory"]


stages = [run(dp=4, zero=zero, steps=3, parity=zero == 3) for zero in range(4)]
bars = [Stage(zero=zero, predicted=each["predicted"], peak=each["predicted_peak"]["total"],
              measured=each["measured"], measured_peak=each["peak"]["total"])
        for zero, each in enumerate(map(state_of, stages))]  # fmt: skip
step = (cut := stages[3]).trace.only(1)
display(stage_bars(bars, badges=[step.provenance.badge]))
read = [row for row in cut.view.gauge if (row.rank, row.step) == (0, 1)]
alive = moments(cut.plan, cut.view.program, step, 0)
display(river(River(trace=step, rank=0, moments=alive, measured=read)))
print("\n".join(map(str, stages)))

# %%
# NBVAL_CHECK_OUTPUT
psi = elements(stages[0].plan)
print(f"Ψ = {psi:,} parameters in float32; each of 4 ranks holds between steps, and sends in one")
for done in stages:
    assert state_of(done)["predicted"] == state_of(done)["measured"], "the prediction is off"
    held = "  ".join(f"{kind} {max(size):9,}" for kind, size in state_of(done)["measured"].items())
    left = sent(done.report["ledger"]["wire"]["measured"], done.plan, steps=3)
    print(f"  stage {done.plan.zero}: {held}   sends {left['dp'] / psi:.2f} Ψ")
    assert all(abs(a - b) < 1e-5 for a, b in zip(done.losses, stages[0].losses, strict=True))
large = Plan.of(dialect="gpt", layers=36, hidden=4096, heads=32, vocab=30000, seq=1024,
                global_batch=64, dp=64, dtype="bfloat16")  # fmt: skip
print(f"{elements(large) / 1e9:.1f}B in bf16, 64 ranks, GB on each:", end="")
for zero in range(4):
    gb = peak_state_bytes(predicted_memory(large.but(zero=zero))) / 1e9
    print(f"  stage {zero} {gb:.1f}", end="")

# %% [markdown]
# ## Explain: three cuts, and why the third costs half as much again
#
# With $\Psi$ parameters, $N$ ranks and $K=12$ bytes of optimizer state a parameter, a rank holds
#
# | stage | what is cut | bytes | a rank sends in a step, times $\frac{N-1}N$ |
# |---|---|---|---|
# | 0 | nothing | $(2+2+K)\Psi$ | $2\Psi$: an all-reduce of the gradients |
# | 1 | the optimizer's state | $(2+2+\frac KN)\Psi$ | $2\Psi$: a reduce-scatter of the gradients, an all-gather of the weights |
# | 2 | gradients as well | $(2+\frac{2+K}N)\Psi$ | $2\Psi$: the same, unit by unit |
# | 3 | weights as well | $\frac{2+2+K}N\Psi$ | $3\Psi$: an all-gather for the forward, one for the backward, a reduce-scatter |
#
# **Stages 1 and 2 send nothing extra.** An all-reduce *is* a reduce-scatter and an all-gather (lesson 3); ZeRO puts the update
# between the two, where each rank has the sum of its own shard. Stage 3 gathers a second time, because what the forward gathered was
# freed: $\frac32$, exactly, if gradients and weights have one type, every unit is gathered for each use, and the shards divide
# without padding. A page each: [`zero1.py`](../parallel_core/data/zero1.py), [`zero2.py`](../parallel_core/data/zero2.py),
# [`zero3.py`](../parallel_core/data/zero3.py).

# %%
# NBVAL_CHECK_OUTPUT
program = program_of(Plan.of(dp=4, layers=1, zero=3))
check(program)
print("A step of stage 3, one layer, up to the first sum, as rank 0 runs it:")
print("\n".join(f"  {instr}" for instr in program.ranks[0][:12]))
print(prove(program), "terms, each summed exactly once")
stale = str(program).replace("saved[0,1] full[1,4]", "saved[0,1] full[1,1]")
hybrid = str(program_of(Plan.of(dp=4, layers=1, zero=3, shard=2)))
hybrid = re.sub(r"gsum\[(.)\]", r"gshard[\1,0]", hybrid)
apart = re.sub(r"comm .*@replica .*\n", "", hybrid)  # no sum over replicas, the shard in its place
for reader, wrong in ((check, stale), (prove, apart)):
    try:
        reader(Program.parse(wrong))
    except ProgramError as error:
        print(f"{reader.__name__}: {error}")

# %% [markdown]
# ## Explain: gather, use, free
#
# `full[1,1]` is layer 0, gathered for task 1 of the step; what stands behind `~` is freed when the instruction is over. The backward
# needs the layer again, `full[1,4]`, a second gather: the first broken program took the freed one. Its gradient is whole for a moment
# and scattered at once; before a third one would be whole, the compute lane waits.
#
# - **Prefetch.** `used[0]` is the mark that task 0 is over: the gather for task 2 may start then, not before. So the wire works while
#   task 1 computes, and at most `prefetch` + 1 units are whole: of your four layers that is half, the diamond far above the bar; of
#   eighty a fortieth. With 0 a rank waits for every gather.
# - **Keep gathered** (FSDP: *do not reshard after forward*): a third less traffic, and at the turn all weights are whole.
# - **Accumulation.** Stage 1 adds up whole gradients and sums them once a step. Stages 2 and 3 have no room for that and scatter in
#   each of $M$ microbatches: $(M+1)\Psi$ and $3M\Psi$.
# - **HSDP.** Weights are cut over `shard` ranks that share a fast wire, in `dp / shard` *replicas*. Gathers stay inside; across goes
#   only the sum of gradient *shards*. The second broken program forgot it: two models, and both losses would fall.


# %%
# NBVAL_CHECK_OUTPUT
def sends(plan):
    """Ψ that each rank sends in a step, by axis, counted on the messages of its program."""
    counts = predicted(plan, program_of(plan))
    return {axis: count / elements(plan) for axis, count in counts.items()}


billion = Plan.of(dialect="gpt", layers=20, hidden=2048, heads=16, vocab=2048, seq=1024,
                  global_batch=64, dp=8, dtype="bfloat16")  # fmt: skip
print("Ψ a rank sends, times N/(N-1)     M=1   M=2   M=8")
for zero in range(4):
    row = [sends(billion.but(zero=zero, microbatches=m))["dp"] * 8 / 7 for m in (1, 2, 8)]
    print(f"  stage {zero:<23}" + "".join(f"{each:6g}" for each in row))
print("1B, 8 GPUs of 400 TFLOP/s, modelled: a step; most weights, gradients and activations")
for choice in ("zero=0", "prefetch=0", "prefetch=1", "prefetch=2", "keep_gathered=True"):
    plan = billion.but(**{"zero": 3, "global_batch": 32, **dict([choice.split("=")])})
    row = [f"  {choice:20}"]
    for name in ("nvlink4", "infiniband-ndr"):
        trace = simulate(program_of(plan), model_cost(plan, rate=4e14, link=WIRES[name].link))
        peak = max(span.memory for span in trace.by_rank[0])
        row.append(f"{name} {trace.makespan / 1e6:5.1f} ms {peak / 1e9:.2f} GB")
    print("   ".join(row))
print("Ψ = 1e9 in bf16, 32 ranks in nodes of 8: GB that each rank sends in a step, and a node")
for name, shard in (("FSDP over 32", 32), ("HSDP 8 x 4", 8)):
    row = sends(billion.but(dp=32, zero=3, shard=shard))
    words = ", ".join(f"{2 * size:g} along {axis}" for axis, size in row.items())
    node = Sharding(params=1e9, ranks=32, shard=shard, node=8).leaving_node / 1e9
    print(f"  {name}: {words}; {node:g} leave the node")

# %%
choices = {"zero": 3, "dp": 4, "steps": 3, "parity": False}
none, kept = run(**choices, prefetch=0), run(**choices, keep_gathered=True)
hsdp = run(dp=4, zero=3, shard=2, steps=3)
print(f"You said {my_guess_gb} GB: 31.4, 16.6 and 1.9.")
ratio = stages[3].wire_bytes / stages[0].wire_bytes
print(f"You said {my_guess_ratio} times the bytes; your run counted {ratio}.")
for name, done in (("prefetch=1", stages[3]), ("prefetch=0", none), ("kept", kept), ("HSDP", hsdp)):
    most, bound = (max(state_of(done)[key]["params"]) / 1e6 for key in ("peak", "predicted_peak"))
    left = sent(done.report["ledger"]["wire"]["measured"], done.plan, steps=3)
    words = ", ".join(f"{count / psi:.3g} Ψ along {axis}" for axis, count in left.items())
    print(f"{name:10} weights at most {most:.2f} MB (predicted {bound:.2f}); a rank sends {words}")
display(hsdp)

# %% [markdown]
# ## Explain: bytes leave the slow wire
#
# With $S$ ranks a group and $R$ replicas a rank sends $3\frac{S-1}{S}\Psi$ inside its group and $2\frac{R-1}{R}\cdot\frac{\Psi}{S}$
# across. For a billion bf16 parameters on 32 ranks in nodes of eight: FSDP over all 32 moves **5.81 GB** a rank; HSDP $8\times4$
# moves **5.25 GB** inside the node and **0.375 GB** across. What leaves a *node*? In a flat ring over 32, one rank of the eight sends
# to the next node: 5.81 GB. Under HSDP eight rings go across, one a shard: $8\times0.375 = 3.0$ GB, **1.9 times** less. The price:
# $\frac{16}{8}$ bytes a parameter instead of $\frac{16}{32}$.
#
# The choices: on NVLink one unit of prefetch hides nearly all traffic; a second costs a unit's weights and buys nothing. On
# InfiniBand there is more to send than time to hide it, and only fewer bytes help. *Kept* sends what plain data parallelism sends and
# is faster, since half of it travels under the forward.

# %%
# NBVAL_CHECK_OUTPUT
for zero, kind in ((1, "float32"), (3, "float32"), (3, "bfloat16")):
    half = run(**{**choices, "zero": zero}, dtype="bfloat16", moments=kind, quiet=True)
    sizes = [state_of(done)["peak_state_bytes"] for done in (stages[zero], half)]
    print(f"stage {zero}: {sizes[0]:,} bytes of state in float32; in bf16, {kind} moments, {sizes[1]:,}"
          f" and {stages[zero].wire_bytes / half.wire_bytes:g} times fewer bytes on the wire")  # fmt: skip
    assert all(abs(a - b) < 0.02 for a, b in zip(half.losses, stages[zero].losses, strict=True))
weight = slow = fast = torch.ones((), dtype=torch.bfloat16)
master = torch.ones(())
for _ in range(1000):
    weight, master, slow, fast = weight + 0.001, master + 0.001, 0.999 * slow, 0.95 * fast
print(f"a weight of 1 and 1000 updates of 0.001: bf16 {weight:.3f}, fp32 master {master:.3f}")
print(f"Adam's v, once 1, after 1000 zero gradients: beta2 0.999 in bf16 {slow:.2f}, truly"
      f" {0.999**1000:.2f}; beta2 0.95 in bf16 {fast:.2f}, truly {0.95**1000:.2f}")  # fmt: skip
tiny = torch.tensor(1e-8)
scaled = (tiny * 2**16).half()
print(f"a gradient of 1e-8: bf16 {tiny.bfloat16():.0e}, fp16 {tiny.half():.0e}, scaled by 65536 and"
      f" back in fp16 {scaled / 2**16:.0e}, back in fp32 {scaled.float() / 2**16:.0e}")  # fmt: skip

# %% [markdown]
# ## Explain: sixteen bytes, again
#
# **Mixed precision** is bf16 weights and gradients with an fp32 master, m and v: $2+2+12$. Plain fp32 has $4+4+8$, the same 16: at
# stage 3 it saves wire, activations and (on a GPU) time, but no state. At stage 1 what stays whole is half as wide.
#
# The **master** is there because bf16 has 8 bits of precision: above 1 the grid is 0.008 wide, and an update below half of that is
# rounded off every time. **bf16 moments** are the cheaper variant, 8 bytes of optimizer state instead of 12. Mind $\beta_2$: at
# 0.999, $v$ shrinks by less than half a step of the grid and never comes down; at 0.95 it does. (DeepSeek-V3 was trained with both in
# bf16, arXiv:2412.19437.) **Loss scaling** is for fp16, whose smallest number is 6e-8: multiply the loss by $2^{16}$ and, by the
# chain rule, every gradient; divide in fp32, before clipping. If one overflows, *all* ranks must skip the step and halve the scale,
# so the verdict is summed as the norm is. bf16 has fp32's range and needs none of it.
#
# ## Exercise
#
# Three formulas, held against the papers' tables, against the program and against the byte counters of *your* runs; and a layout for
# **4 ranks and 4 microbatches** with at most **9.0 MB** of state a rank between steps that sends no more than plain data parallelism.


# %%
def bytes_a_parameter(stage, n, optimizer=12):
    """Bytes of bf16 weights and gradients and of optimizer state on each of n ranks."""
    raise NotImplementedError


def sends_psi(stage, n, m=1):
    """Ψ that a rank sends in a step of m microbatches; stage 0 is plain data parallelism."""
    raise NotImplementedError


def hybrid_gb(gb, shard, replicas):
    """Of `gb` of weights: GB a rank sends in its group, GB across, GB that leave a node."""
    raise NotImplementedError


def my_layout():
    """Fields for run(), as in {"zero": 3, "prefetch": 0}."""
    raise NotImplementedError


# %% tags=["raises-exception"]
share = [bytes_a_parameter(stage, 64) for stage in range(4)]
assert [round(7.5 * size, 1) for size in share] == [120, 31.4, 16.6, 1.9], f"bytes {share}"
for row in table("zero_table1").rows:  # all 54 values of the ZeRO paper's table
    cut = ("Pos", "Pos+g", "Pos+g+p").index(row["stage"]) + 1
    gb = row["params_B"] * bytes_a_parameter(cut, row["Nd"])
    assert abs(gb - row["GB_per_device"]) <= max(0.005, 0.003 * gb), row
for stage, row in enumerate(table("lecture_zero_8xA100").rows):  # 80 GB each, bf16 moments
    assert abs(80 / bytes_a_parameter(stage, 8, optimizer=8) - row["max_params_B"]) < 0.01, row
for stage, m in ((stage, m) for stage in range(4) for m in (1, 2, 8)):
    counted = sends(billion.but(zero=stage, microbatches=m))["dp"]
    assert abs(sends_psi(stage, 8, m) - counted) < 1e-9, f"stage {stage}, {m} microbatches"
assert hybrid_gb(2, shard=8, replicas=4) == (5.25, 0.375, 3.0), "2 GB of weights, 8 x 4"
assert round(2 * sends_psi(3, 32), 2) == 5.81
for stage, done in enumerate(stages):  # the byte counters of your own runs: steps, ranks, bytes
    assert done.wire_bytes == 3 * 4 * 4 * psi * sends_psi(stage, 4), done.plan.layout
assert stages[3].wire_bytes / stages[0].wire_bytes == 1.5
left = sent(hsdp.report["ledger"]["wire"]["measured"], hsdp.plan, steps=3)
assert (left["shard"], left["replica"]) == hybrid_gb(psi, shard=2, replicas=2)[:2], left
given = {"dp": 4, "microbatches": 4, "steps": 2, "parity": False, "quiet": True}
mine, plain = run(**{**my_layout(), **given}), run(**given)
held, times = state_of(mine)["peak_state_bytes"], mine.wire_bytes / plain.wire_bytes
assert held <= 9.0e6, f"{held / 1e6:.1f} MB on a rank are over the budget"
assert times <= 1, f"{times:.2f} times the bytes of plain data parallelism"
print(f"All true. Yours, {mine.plan.layout}: {held / 1e6:.1f} MB, {times:g} times the bytes")


# %% tags=["solution"] jupyter={"source_hidden": true}
def bytes_a_parameter(stage, n, optimizer=12):
    """Bytes of bf16 weights and gradients and of optimizer state on each of n ranks."""
    cut = [n if stage >= first else 1 for first in (3, 2, 1)]
    return sum(size / ranks for size, ranks in zip((2, 2, optimizer), cut, strict=True))


def sends_psi(stage, n, m=1):
    """Ψ that a rank sends in a step of m microbatches; stage 0 is plain data parallelism."""
    return {0: 2, 1: 2, 2: m + 1, 3: 3 * m}[stage] * (n - 1) / n


def hybrid_gb(gb, shard, replicas):
    """Of `gb` of weights: GB a rank sends in its group, GB across, GB that leave a node."""
    across = gb / shard * sends_psi(0, replicas)
    return gb * sends_psi(3, shard), across, shard * across


def my_layout():
    """Stage 1: gradients stay whole, so they can wait for the last microbatch."""
    return {"zero": 1}


# %%
share = [bytes_a_parameter(stage, 64) for stage in range(4)]
assert [round(7.5 * size, 1) for size in share] == [120, 31.4, 16.6, 1.9], f"bytes {share}"
for row in table("zero_table1").rows:  # all 54 values of the ZeRO paper's table
    cut = ("Pos", "Pos+g", "Pos+g+p").index(row["stage"]) + 1
    gb = row["params_B"] * bytes_a_parameter(cut, row["Nd"])
    assert abs(gb - row["GB_per_device"]) <= max(0.005, 0.003 * gb), row
for stage, row in enumerate(table("lecture_zero_8xA100").rows):  # 80 GB each, bf16 moments
    assert abs(80 / bytes_a_parameter(stage, 8, optimizer=8) - row["max_params_B"]) < 0.01, row
for stage, m in ((stage, m) for stage in range(4) for m in (1, 2, 8)):
    counted = sends(billion.but(zero=stage, microbatches=m))["dp"]
    assert abs(sends_psi(stage, 8, m) - counted) < 1e-9, f"stage {stage}, {m} microbatches"
assert hybrid_gb(2, shard=8, replicas=4) == (5.25, 0.375, 3.0), "2 GB of weights, 8 x 4"
assert round(2 * sends_psi(3, 32), 2) == 5.81
for stage, done in enumerate(stages):  # the byte counters of your own runs: steps, ranks, bytes
    assert done.wire_bytes == 3 * 4 * 4 * psi * sends_psi(stage, 4), done.plan.layout
assert stages[3].wire_bytes / stages[0].wire_bytes == 1.5
left = sent(hsdp.report["ledger"]["wire"]["measured"], hsdp.plan, steps=3)
assert (left["shard"], left["replica"]) == hybrid_gb(psi, shard=2, replicas=2)[:2], left
given = {"dp": 4, "microbatches": 4, "steps": 2, "parity": False, "quiet": True}
mine, plain = run(**{**my_layout(), **given}), run(**given)
held, times = state_of(mine)["peak_state_bytes"], mine.wire_bytes / plain.wire_bytes
assert held <= 9.0e6, f"{held / 1e6:.1f} MB on a rank are over the budget"
assert times <= 1, f"{times:.2f} times the bytes of plain data parallelism"
print(f"All true. Yours, {mine.plan.layout}: {held / 1e6:.1f} MB, {times:g} times the bytes")
