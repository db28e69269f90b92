# %% [markdown]
# # 1 · Why distribute: three walls and a roofline
#
# A large model meets three walls on one device. Its **weights** do not fit. Its training **state**
# (gradients, optimizer) does not fit long before that. And its **work** would take a lifetime. Every
# kind of parallelism is a way round one or more of these walls, at a price in communication.
#
# In 25 minutes you will put numbers on the walls, meet the map of methods, and measure the roofline
# of the machine you sit at. The page *Walls* of the app (`shardlab app`) has the same formulas with
# sliders.

# %%
import pandas as pd
from IPython.display import display

from parallel_core.hardware.devices import DEVICES, a100_ladder
from parallel_core.hardware.moves import moves
from parallel_core.hardware.roofline import attainable, decode
from parallel_core.launch import Pool
from parallel_core.taxonomy import question_rows, wall_rows
from parallel_core.views.roofline import Dot, Roof, of_findings, roofline
from parallel_core.views.walls import Slice, ladder, memory_bars, step_parts
from parallel_core.walls.compute import (
    YEAR,
    decode_attention_flops,
    prefill_attention_flops,
    train_flops,
    trainable_params,
    training_seconds,
)
from parallel_core.walls.memory import RECIPES, training_state
from parallel_core.walls.models import PRESETS

pd.set_option("display.max_colwidth", None)
H100 = DEVICES["H100 SXM"]

# %% [markdown]
# ## Predict: how much memory does a 7.5-billion-parameter model need while it trains?
#
# Weights and gradients in bf16, Adam, an fp32 master copy of the weights. Activations come on top.
# Your H100 has 80 GB. Commit to a number; nobody but you compares it.

# %%
my_guess_gb = 30  # change me: gigabytes of training state

# %%
recipe = RECIPES["bf16, Adam, fp32 master"]
state = training_state(7.5e9, recipe)
rows = {
    "training": [Slice(part.name, part.holds, state[part.name]) for part in recipe.components],
    "weights alone": [Slice("weights", "params", state["weights"])],
}
print(f"You said {my_guess_gb} GB; it is {sum(state.values()) / 1e9:.0f} GB.")
memory_bars(rows, H100.memory, device=H100.name)

# %%
# NBVAL_CHECK_OUTPUT
for part in recipe.components:
    print(f"{part.name:20} {part.bytes_per_param} B/param  {state[part.name] / 1e9:5.1f} GB")
print()
for name in ("Llama 3 8B", "GPT-3 175B", "DeepSeek-V2 236B", "Llama 3 405B", "rumoured 7T"):
    params = PRESETS[name].params
    print(
        f"{name:17} bf16 weights {2 * params / 1e9:8,.0f} GB   training {16 * params / 1e12:6.2f} TB"
    )
print()
flops = train_flops(1e12, 300e9)
years = training_seconds(flops, 1e15) / YEAR
print(f"1T parameters, 300B tokens: {flops:.1e} FLOP = {years:.1f} years of one 1e15 FLOP/s device")
size = trainable_params(8e6, H100.flops("bfloat16"), devices=1024, mfu=0.4)
print(f"8M tokens/s on 1,024 H100 at 40 % MFU: a model of {size / 1e9:.1f}B")
for n in (2048, 4096):
    prefill, token = prefill_attention_flops(n, 4096), decode_attention_flops(n, 4096)
    print(
        f"attention of one layer over {n} tokens: prefill {prefill:.1e}, one decoded token {token:.1e}"
    )

# %% [markdown]
# ## Explain: three walls, and the map of ways round them
#
# **Weights are the small part.** Two bytes of bf16 weight drag fourteen more behind them: the
# gradient (2), an fp32 master copy so that small updates are not rounded away (4), and Adam's two
# moments (4 + 4). So *16 bytes a parameter*, and 7.5 billion of them are over one device although the
# weights alone would fit five times. See [`walls/memory.py`](../parallel_core/walls/memory.py); the
# models are counted from their shapes in [`walls/models.py`](../parallel_core/walls/models.py). (The
# 7T model is a *rumour*: nobody published its shape.)
#
# The third wall is **work**: training costs about $6ND$ FLOPs for $N$ parameters and $D$ tokens, two of
# the six in the forward pass and four in the backward. Attention comes on top: $O(n^2 d)$ to read a
# prompt of $n$ tokens, $O(n)$ for each token decoded after it
# ([`walls/compute.py`](../parallel_core/walls/compute.py)).
#
# So the model is spread: `world size` processes take part, numbered by `rank`. Put the same four
# questions to every method: **what is split, what is duplicated, what is pipelined, who talks to
# whom?** The second table says which wall a method takes down and what it brings along. The rest of
# the course fills in the rows of [`taxonomy.py`](../parallel_core/taxonomy.py).

# %%
display(pd.DataFrame(question_rows()).set_index("method"))
display(pd.DataFrame(wall_rows()).set_index("method"))

# %% [markdown]
# ## Predict: when does a device stop waiting for its memory?
#
# To decode one token of every sequence in a batch, a GPU reads all weights once and does two FLOPs
# with each weight *per sequence*. An H100 does 989 TFLOP/s in bf16 and reads 3.35 TB/s. From which
# batch on is it the arithmetic that takes the time, not the reading?
#
# Then run **the roofline of your machine**. One worker process streams arrays far larger than the
# caches, multiplies a matrix that stays in the cache, then multiplies 1, 2, 4, ... rows by weights
# that come from memory each time. It also takes a training step of our own model apart, op by op.
# About five seconds, one thread.

# %%
my_guess_batch = 16  # change me: sequences

# %%
with Pool() as pool, pool.start("parallel_core.roofline_live:measure", 1, {}) as run:
    found = list(run.events())
    (here,) = run.wait()

# %%
roofs, dots = of_findings(found)
display(roofline(roofs, dots, badge=here["badge"]))
parts = {f"width {row['width']}": row["seconds"] for row in here["shares"]}
display(step_parts(parts, badge=here["badge"]))

# %%
peak = H100.flops("bfloat16")
memory = Roof(name="H100 memory", peak=peak, bandwidth=H100.bandwidth)
nvlink = Roof(name="NVLink", peak=peak, bandwidth=H100.links["scale-up"], traffic="NVLink")
steps = [decode(batch, PRESETS["Llama 3 8B"].params) for batch in (1, 8, 64, 295, 1024)]
marks = [
    Dot(step.name, step.intensity, attainable(step.intensity, peak, H100.bandwidth), line="decode")
    for step in steps
]
print(f"You said a batch of {my_guess_batch}; the dots bend at {memory.ridge:.0f}.")
display(
    roofline([memory, nvlink], marks, badge="model: H100 SXM data sheet, 8B bf16, weights only")
)
cycles = {level.name: level.cycles for level in a100_ladder()}
display(ladder(cycles, badge="quoted: A100, arXiv:2208.11174, table IV"))

# %%
# NBVAL_CHECK_OUTPUT
for move in moves():
    print(f"{move.name:16} {move.before.intensity:8.2f} -> {move.after.intensity:8.2f} FLOP/B")

# %% [markdown]
# ## Explain: the roof
#
# ```
# FLOP/s |         .________ peak             left of the ridge: memory-bound
#        |       .'                           right of it: compute-bound
#        |     .'  bandwidth x intensity
#        |___.'____|________ FLOP per byte    ridge = peak / bandwidth
# ```
#
# A kernel runs at most at $\min(\text{peak},\ \text{intensity} \times \text{bandwidth})$, where its
# *intensity* is the FLOPs it does per byte it moves
# ([`hardware/roofline.py`](../parallel_core/hardware/roofline.py)). Your dots stay under your roof, most
# of all near the ridge, where a kernel must do both at once. And the wider the model, the more of its
# step is matmul: that is the work which is worth spreading.
#
# The list above ([`hardware/moves.py`](../parallel_core/hardware/moves.py)) is what engineers do to move
# right: read whole sectors (coalescing), do several operations in one pass (fusion), keep tiles on
# chip, never write the attention scores (FlashAttention), shrink the bytes (quantization), share one
# reading of the weights (batching). Recomputation does the work twice, to buy memory. The cycles are the
# reason for all this: a load from an A100's global memory takes nine times as long as one from its L1.
#
# **A link is a second roof.** Bytes that go to another device cross a link slower than memory, so the
# ridge lies further right: 2,198 FLOP per byte *sent* for NVLink, over 15,000 for PCIe. Which axis talks
# over which wire decides how fast a distributed step can be. The other lessons are about that.

# %% [markdown]
# ## Exercise
#
# Fill in four one-liners. The last one reads your own run: `found` is the list of events the worker
# emitted, such as `{"found": "stream", "name": "copy", "bandwidth": 3.1e10}` and
# `{"found": "peak", "flops": 1.0e11}`. A roof is the *best* that was seen.


# %%
def state_gb(billions, bytes_per_param):
    """Gigabytes of training state."""
    raise NotImplementedError


def ridge_of(peak, bandwidth):
    """FLOP per byte where the roofs meet."""
    raise NotImplementedError


def batch_that_leaves_memory(ridge, bytes_per_weight):
    """The decode batch whose weight matmuls reach the ridge: 2 FLOPs a weight and sequence."""
    raise NotImplementedError


def my_ridge(found):
    """The ridge of the machine that emitted these events."""
    raise NotImplementedError


# %% tags=["raises-exception"]
assert state_gb(7.5, 16) == 120
assert round(ridge_of(989e12, 3.35e12)) == 295
assert round(batch_that_leaves_memory(ridge_of(989e12, 3.35e12), 2)) == 295
assert round(batch_that_leaves_memory(ridge_of(989e12, 3.35e12), 0.5)) == 74  # 4-bit weights
assert abs(my_ridge(found) - here["ridge"]) < 0.25 * here["ridge"]
assert dots[0].intensity < my_ridge(found) < dots[-1].intensity  # both sides are on your plot
print("All true, and graded on your own run.")


# %% tags=["solution"] jupyter={"source_hidden": true}
def state_gb(billions, bytes_per_param):
    """Gigabytes of training state."""
    return billions * bytes_per_param


def ridge_of(peak, bandwidth):
    """FLOP per byte where the roofs meet."""
    return peak / bandwidth


def batch_that_leaves_memory(ridge, bytes_per_weight):
    """The decode batch whose weight matmuls reach the ridge: 2 FLOPs a weight and sequence."""
    return ridge * bytes_per_weight / 2


def my_ridge(found):
    """The ridge of the machine that emitted these events."""
    peak = max(event["flops"] for event in found if event["found"] == "peak")
    bandwidth = max(event["bandwidth"] for event in found if event["found"] == "stream")
    return ridge_of(peak, bandwidth)


# %%
assert state_gb(7.5, 16) == 120
assert round(ridge_of(989e12, 3.35e12)) == 295
assert round(batch_that_leaves_memory(ridge_of(989e12, 3.35e12), 2)) == 295
assert round(batch_that_leaves_memory(ridge_of(989e12, 3.35e12), 0.5)) == 74  # 4-bit weights
assert abs(my_ridge(found) - here["ridge"]) < 0.25 * here["ridge"]
assert dots[0].intensity < my_ridge(found) < dots[-1].intensity  # both sides are on your plot
print("All true, and graded on your own run.")
