# %% [markdown]
# # 13b · The bug museum: the loss looks right
#
# Every parallel axis adds sums that must be made exactly once. Forget one, make one twice, or make it a moment too early, and nothing
# crashes: shapes fit, the loss falls, the run ends. The bugs of this lesson were all met in public, in code that people trained real
# models with, some for months. What they have in common is that the one curve everybody watches says nothing.
#
# In 25 minutes you will plant some of them in real runs, guess who notices, see how an optimizer hides a mistake, and learn to tell
# from the evidence what kind of mistake it was. The page *Bug museum* of the app (`shardlab app`) has all twelve; so has
# `shardlab museum`. A bug is in a run only if one of these asks for it by its name, and the run's badge says so.

# %%
import inspect

from IPython.display import display

from parallel_core.live import pool
from parallel_core.museum.exhibits import EXHIBITS
from parallel_core.museum.report import follow
from parallel_core.museum.request import PLANTED, RIGHT, Visit
from parallel_core.museum.scaled import MicrobatchesUndivided, Scaled
from parallel_core.museum.words import copies, divergence, witness_rows, wrong_tensors
from parallel_core.views.museum import curves, probe

# %% [markdown]
# ## Predict: who notices?
#
# Three witnesses: the **loss** curve, the **gradient norm** curve, and a **probe** that compares every gradient with one process.
# Five bugs, trained with AdamW:
#
# - a pipeline's loss is not divided by its four microbatches;
# - the experts' gradients are `ep` times too large;
# - under sequence parallelism the norms' gradients are not summed over `tp`;
# - of four microbatches only the last one's gradient is kept;
# - under zigzag context parallelism positions are counted as if chunks were neighbours.
#
# The guesses below are those of somebody who trusts the loss. Put yours in their place. And: how many times as long are the steps of
# the first one, with four times the gradient?

# %%
my_guess = {  # change me: any of "loss", "gradient norm", "probe"
    "microbatches-undivided": ["loss", "gradient norm", "probe"],
    "experts-times-ep": ["loss", "gradient norm", "probe"],
    "norms-unsummed": ["gradient norm", "probe"],
    "last-microbatch-only": ["loss", "gradient norm", "probe"],
    "positions-contiguous": ["loss", "probe"],
}
my_guess_longer = 4  # change me: how many times as long AdamW's steps are

# %% [markdown]
# ## Run: right, wrong, and from another seed
#
# When does a curve *notice*? Nobody has the right curve beside the wrong one. What you do know is how runs differ when nothing is
# wrong: by their seed. So each visit trains three times on the same layout, on real processes: right, with the bug, and right from
# another seed. A curve notices if the bug moves it further than the other seed does.

# %%
found = {}
for bug in my_guess:
    report = follow(Visit(bug=bug, steps=8), pool())  # change me: steps, seed
    found[bug] = report["optimizers"]
    badge = report["provenance"]["badge"]
    if bug == "last-microbatch-only":
        for key in ("loss", "grad_norm"):
            display(curves(found[bug]["adamw"]["curves"], key, badge=badge))
    told = found[bug]["adamw"]["noticed_by"]
    verdict = "right" if set(told) == set(my_guess[bug]) else "wrong"
    print(f"{bug}: you said {', '.join(my_guess[bug])}. It is {', '.join(told)}: {verdict}.")
    for row in witness_rows(found[bug]["adamw"]):
        print("   ", "; ".join(f"{name} {words}" for name, words in row.items()))

# %%
# NBVAL_CHECK_OUTPUT
for bug, both in found.items():
    probes = [both["adamw"]["witnesses"]["probe"][run] for run in ("right", "planted")]
    assert probes[0] < 1e-10 < 1e-2 < probes[1]
    print(f"{bug:22} AdamW: {', '.join(both['adamw']['noticed_by'])}")
    print(f"{'':22} {divergence(both['adamw']).split('. ')[-1]}")

# %% [markdown]
# ## Explain: the loss is the last to know
#
# The loss is computed *before* the mistake. A sum of gradients that is missing, or a factor on them, changes nothing in the forward
# of the first step; later it only changes where training goes, and on half of a gradient training goes down as well. That is why
# "the loss falls" proves so little, and why the probe compares **gradients**, in float64, tensor by tensor: rounding is $10^{-13}$
# there, and each of these bugs is a billion times larger.
#
# The gradient norm sees what touches *all* tensors. Experts and norms hide from it: they are a small part of a sum of squares. "Only
# the gradient norm gave it away", says one of the public reports; here it did not in three of five.
#
# Now the same five with SGD. Which of them will the loss see?

# %%
for bug, both in found.items():
    moved = {name: each["witnesses"]["loss"] for name, each in both.items()}
    print(f"{bug:22} moves the loss by", ", ".join(f"{name} {one['moved']:.1e}" for name, one in
          moved.items()), f"(another seed, sgd: {moved['sgd']['seed_moves']:.1e})")  # fmt: skip
first = found["microbatches-undivided"]
display(curves(first["sgd"]["curves"], "loss", badge=badge))
print(inspect.getsource(Scaled.forward), inspect.getsource(MicrobatchesUndivided.times.fget))
longer = {
    name: (each["curves"][PLANTED][0]["loss"] - each["curves"][PLANTED][1]["loss"])
    / (each["curves"][RIGHT][0]["loss"] - each["curves"][RIGHT][1]["loss"])
    for name, each in first.items()
}
print(f"You said {my_guess_longer} times as long. The first step lowers the loss"
      f" {longer['adamw']:.4f} times as much with AdamW, {longer['sgd']:.2f} times with SGD.")  # fmt: skip

# %%
# NBVAL_CHECK_OUTPUT
for bug, both in found.items():
    rows = wrong_tensors(both["sgd"])
    factors = sorted({f"{row['factor']:.3f}" for row in rows if row["rest"] < 1e-9})
    said = f"times {', '.join(factors)} and else right" if factors else "no factor mends them"
    print(f"{bug:22} SGD: {', '.join(both['sgd']['noticed_by'])}; {len(rows)} tensors, {said}")

# %% [markdown]
# ## Explain: an optimizer that forgives
#
# AdamW's step is $m/(\sqrt v+\epsilon)$. Multiply every gradient by $c$: $m$ becomes $cm$ and $\sqrt v$ becomes $c\sqrt v$, and $c$
# **cancels**, but for $\epsilon$. A factor is invisible to AdamW, on all tensors or on some; SGD steps $c$ times as far. So a layout
# can train for months with expert gradients `ep` times too large, until somebody clips by the norm, changes the optimizer, or
# compares two layouts. **Clipping** is where wrong norms bite: gradients are multiplied by
# $\min(1, \text{clip}/\text{norm})$, so a norm that counts a shared table twice shortens every step.
#
# And why was it not seen in a test? Because each of these lines is right *somewhere*: with one microbatch, with `ep=1`, with
# contiguous chunks, the very same code is correct to the bit. That is the layout on which it was written and tested. Only the
# *product* of the axes finds it. Three cheaper witnesses help before the probe: the **first loss** (equal to the last digit? then the
# forward is right), the **hash of replicas** (do ranks that should hold the same weights still?), and the **list** of wrong tensors.

# %%
for bug in ("context-unsummed", "bucket-early", "stages-seeded-alike", "norm-counted-twice"):
    report = follow(Visit(bug=bug, steps=2, optimizer="adamw"), pool())
    found[bug] = report["optimizers"]
    print(f"{bug}: {divergence(found[bug]['adamw'])} {copies(found[bug]['adamw'])}")
badge = report["provenance"]["badge"]
bound = found["norm-counted-twice"]["adamw"]["witnesses"]["probe"]["bound"]
display(probe(found["norm-counted-twice"]["adamw"]["tensors"], bound, badge=badge))

# %%
# NBVAL_CHECK_OUTPUT
for bug in ("microbatches-undivided", "norms-unsummed", "bucket-early"):
    asleep = follow(Visit(bug=bug, steps=2, optimizer="adamw", asleep=True), pool())
    here = asleep["optimizers"]["adamw"]
    noticed = ", ".join(here["noticed_by"]) or "nobody"
    print(f"{bug} with {EXHIBITS[bug].sleeps}: planted {asleep['planted'] == bug}, noticed by"
          f" {noticed}, the loss moved by {here['witnesses']['loss']['moved']:g}")  # fmt: skip

# %% [markdown]
# ## Exercise: be the detective
#
# You get the evidence of a run and nothing else: whether the first loss was right, and of every wrong gradient its `factor` (the
# multiple of the truth that fits best) and its `rest` (what of its size that factor leaves unexplained). Name the kind:
# `"factor"` (sums are made, something multiplies them), `"part"` (some terms of a sum are missing), `"forward"` (the model computed
# something else). It must hold for the runs you have made *and* for three that you have not seen.
#
# Then three numbers: how many times too large gradients are, from the plan alone; what clipping makes of a norm that is counted
# wrong; and how much AdamW's very first step changes when the gradient $g$ of a weight is multiplied by $c$.


# %%
def kind(forward_right, wrong):
    """Say "factor", "part" or "forward"; `wrong` are rows with "name", "factor" and "rest"."""
    raise NotImplementedError


def too_large(bug, plan):
    """The factor on gradients: of microbatches-undivided, loss-times-cp, experts-times-ep."""
    raise NotImplementedError


def clipped(norm, reported, clip):
    """Gradients clipped by a wrong norm, as a multiple of those clipped by the right one."""
    raise NotImplementedError


def first_step(g, c, eps=1e-8):
    """AdamW's first step with gradient c*g, as a multiple of that with g (no weight decay)."""
    raise NotImplementedError


# %% tags=["raises-exception"]
truth = {
    "microbatches-undivided": "factor",
    "experts-times-ep": "factor",
    "norms-unsummed": "part",
    "last-microbatch-only": "part",
    "positions-contiguous": "forward",
    "context-unsummed": "part",
    "bucket-early": "part",
    "stages-seeded-alike": "forward",
    "norm-counted-twice": "factor",
}
unseen = {"loss-times-cp": "factor", "router-unsummed": "part", "tied-too-late": "part"}
assert kind(True, [{"name": "a", "factor": 0.5, "rest": 0.3}]) == "part"
for bug in unseen:
    if bug not in found:
        found[bug] = follow(Visit(bug=bug, steps=1, optimizer="adamw"), pool())["optimizers"]
for bug, answer in (truth | unseen).items():
    seen = found[bug]["adamw"]
    said = kind(seen["forward_right"], wrong_tensors(seen))
    assert said == answer, f"{bug}: {answer}, not {said}"
for bug in ("microbatches-undivided", "loss-times-cp", "experts-times-ep"):
    factor = too_large(bug, EXHIBITS[bug].plan())
    for row in wrong_tensors(found[bug]["adamw"]):
        assert abs(row["factor"] - factor) < 1e-9, f"{bug}: your run has {row['factor']:.4g}"
eight = EXHIBITS["microbatches-undivided"].plan(microbatches=8)
assert too_large("microbatches-undivided", eight) == 8
twice = found["norm-counted-twice"]["adamw"]
norms = [twice["curves"][run][0]["grad_norm"] for run in (RIGHT, PLANTED)]
clip = EXHIBITS["norm-counted-twice"].plan().clip
for row in wrong_tensors(twice):
    assert abs(row["factor"] - clipped(*norms, clip)) < 1e-5, f"your run has {row['factor']:.4f}"
assert clipped(0.1, 0.2, 0.5) == 1 and clipped(0.4, 0.8, 0.5) == 0.625
assert abs(first_step(0.01, 4) - 1) < 1e-5, "a factor hardly changes a step of AdamW"
assert abs(first_step(1e-8, 4) - 1.6) < 1e-9, "but where a gradient is as small as eps it does"
print("All true: twelve bugs, each by its kind.")


# %% tags=["solution"] jupyter={"source_hidden": true}
def kind(forward_right, wrong):
    """Say "factor", "part" or "forward"; `wrong` are rows with "name", "factor" and "rest"."""
    if not forward_right:
        return "forward"
    return "factor" if max(row["rest"] for row in wrong) < 1e-9 else "part"


def too_large(bug, plan):
    """The factor on gradients: of microbatches-undivided, loss-times-cp, experts-times-ep."""
    axis = {"microbatches-undivided": "microbatches", "loss-times-cp": "cp"}.get(bug, "ep")
    return getattr(plan, axis)


def clipped(norm, reported, clip):
    """Gradients clipped by a wrong norm, as a multiple of those clipped by the right one."""
    return min(1, clip / reported) / min(1, clip / norm)


def first_step(g, c, eps=1e-8):
    """AdamW's first step with gradient c*g, as a multiple of that with g (no weight decay)."""
    return (c * g / (abs(c * g) + eps)) / (g / (abs(g) + eps))


# %%
truth = {
    "microbatches-undivided": "factor",
    "experts-times-ep": "factor",
    "norms-unsummed": "part",
    "last-microbatch-only": "part",
    "positions-contiguous": "forward",
    "context-unsummed": "part",
    "bucket-early": "part",
    "stages-seeded-alike": "forward",
    "norm-counted-twice": "factor",
}
unseen = {"loss-times-cp": "factor", "router-unsummed": "part", "tied-too-late": "part"}
assert kind(True, [{"name": "a", "factor": 0.5, "rest": 0.3}]) == "part"
for bug in unseen:
    if bug not in found:
        found[bug] = follow(Visit(bug=bug, steps=1, optimizer="adamw"), pool())["optimizers"]
for bug, answer in (truth | unseen).items():
    seen = found[bug]["adamw"]
    said = kind(seen["forward_right"], wrong_tensors(seen))
    assert said == answer, f"{bug}: {answer}, not {said}"
for bug in ("microbatches-undivided", "loss-times-cp", "experts-times-ep"):
    factor = too_large(bug, EXHIBITS[bug].plan())
    for row in wrong_tensors(found[bug]["adamw"]):
        assert abs(row["factor"] - factor) < 1e-9, f"{bug}: your run has {row['factor']:.4g}"
eight = EXHIBITS["microbatches-undivided"].plan(microbatches=8)
assert too_large("microbatches-undivided", eight) == 8
twice = found["norm-counted-twice"]["adamw"]
norms = [twice["curves"][run][0]["grad_norm"] for run in (RIGHT, PLANTED)]
clip = EXHIBITS["norm-counted-twice"].plan().clip
for row in wrong_tensors(twice):
    assert abs(row["factor"] - clipped(*norms, clip)) < 1e-5, f"your run has {row['factor']:.4f}"
assert clipped(0.1, 0.2, 0.5) == 1 and clipped(0.4, 0.8, 0.5) == 0.625
assert abs(first_step(0.01, 4) - 1) < 1e-5, "a factor hardly changes a step of AdamW"
assert abs(first_step(1e-8, 4) - 1.6) < 1e-9, "but where a gradient is as small as eps it does"
print("All true: twelve bugs, each by its kind.")
