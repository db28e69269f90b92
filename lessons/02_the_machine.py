# %% [markdown]
# # 2 · The machine: from registers to the spine
#
# A byte may lie in a register, in the memory of the same chip, on a neighbour's chip, or in another
# rack. Each step away costs time twice over: a **latency** until its first byte is there, and a
# **bandwidth** for the rest. Two numbers a level, and how the levels are wired up: that is all the
# hardware this course needs.
#
# In 25 minutes you will put times on the wires, see why a torus and a fat tree are built, and measure
# the link between two processes of your own machine. The page *Machine room* of the app
# (`shardlab app`) has the same figures with knobs.

# %%
from itertools import pairwise

from IPython.display import display

from parallel_core.collectives.quoted import quoted_curve
from parallel_core.collectives.ramp import relative_errors
from parallel_core.hardware.hierarchy import hierarchy
from parallel_core.hardware.links import WIRES, wire
from parallel_core.hardware.superpods import PODS
from parallel_core.hardware.topologies import topology
from parallel_core.live_link import link
from parallel_core.quantities import time_text
from parallel_core.views.machine_room import BANDWIDTH, LATENCY, Level, levels, quoted

# %% [markdown]
# ## Predict: how long is a gigabyte, and how long is a byte?
#
# One GiB, the gradients of a small model, goes from one GPU to another. Over the NVLinks of an H100
# (450 GB/s) it takes 2.4 ms. How long over 100 Gb/s Ethernet? And **eight bytes**, between two
# processes of *your* machine: how long do they take? Nobody but you compares the guesses.

# %%
my_guess_ethernet_ms = 10  # change me: milliseconds for 1 GiB
my_guess_tiny_us = 1  # change me: microseconds for 8 bytes, here

# %% [markdown]
# ## Run: the wires of your machine
#
# Two processes pass a message to and fro, from 8 bytes to 16 MiB, three sweeps over all sizes. A
# message takes half of a round trip. About five seconds.

# %%
here = link()
tiny = dict(here.measured)[8]
print(f"You said {my_guess_tiny_us} us for 8 bytes; it took {time_text(1e9 * tiny)}.")
here

# %%
ladder = hierarchy("A100")  # the one GPU whose chip has been measured level by level
slow = [Level(name=r.name, inside=r.inside, value=r.latency, words=time_text(1e9 * r.latency),
              source=r.latency_source) for r in ladder]  # fmt: skip
wide = [Level(name=r.name, inside=r.inside, value=r.bandwidth, words=f"{r.bandwidth / 1e9:,.0f} GB/s",
              source=r.source) for r in ladder]  # fmt: skip
badge = "quoted: an A100 server, data sheets and measurements"
display(levels(slow, LATENCY, badge=badge))
display(levels(wide, BANDWIDTH, badge=badge))

# %%
# NBVAL_CHECK_OUTPUT
print("each level down costs this much bandwidth, an A100 server:")
for near, far in pairwise(ladder):
    print(
        f"  {far.name:27} {far.bandwidth / 1e9:9,.0f} GB/s  {near.bandwidth / far.bandwidth:4.1f}x less"
    )
print("\n1 GiB, and the message whose latency costs as much as its bytes:")
for name in ("nvlink4", "pcie5", "infiniband-ndr", "ethernet-100"):
    w = WIRES[name]
    print(
        f"  {w.title:24} {1e3 * w.seconds(2**30):5.1f} ms   alpha·beta = {w.half_size / 1e3:,.0f} KB"
    )

# %% [markdown]
# ## Explain: alpha and beta
#
# A message of $m$ bytes takes
#
# $$t(m) = \alpha + \frac{m}{\beta}$$
#
# with $\alpha$ seconds of latency and $\beta$ bytes a second ([`cost.py`](../parallel_core/cost.py),
# `Link`; Hockney 1994). At $m = \alpha\beta$ both parts are equal. Far below it bandwidth hardly matters:
# a link twice as wide saves nothing, one message instead of two saves half. Far above it latency hardly
# matters. Over an H100's NVLink the border is 1.5 **mega**bytes: one token's activations are far below.
#
# Look at your dots. They lie flat, then rise; the dashed line bends at your own $\alpha\beta$. It is never
# quite right: caches, protocols and buffers change with the size. A *level down* costs anything from
# 1.3x to 10x: NVLink to PCIe 10x, PCIe to InfiniBand 1.3x. Look, do not assume. Vendors
# print both directions together (an H100's "900 GB/s" is 450 out and 450 in); every bandwidth in
# [`hardware/links.py`](../parallel_core/hardware/links.py) is one direction, with its source.

# %% [markdown]
# ## Predict: the narrowest cut
#
# Two ways to wire 64 ranks. A TPU pod is a **torus**: each chip has a cable to its neighbours on both
# sides of every dimension, and the ends wrap round. A GPU cluster is a **fat tree**: ranks hang on
# switches, switches on more switches. Cut a 4 x 4 x 4 torus into two halves of 32 ranks, as cheaply as
# you can: how many cables is that? (The *bisection*: what an all-to-all must squeeze through.)

# %%
my_guess_cables = 16  # change me: cables cut

# %%
# NBVAL_CHECK_OUTPUT
cable = wire("infiniband-ndr")  # the same cable everywhere, so that the wiring alone differs
texts = ("ring:64", "torus:8x8", "torus:4x4x4", "fat-tree:64", "fat-tree:64,oversubscription=2", "mesh:64",
         "torus:16x16x16", "fat-tree:4096")  # fmt: skip
print(f"{'':32}cables  bisection  diameter  64 MiB all-to-all")
for text in texts:
    t = topology(text, wire=cable)
    cables = sum(1 for _ in t.links()) // 2
    ms = 1e3 * t.all_to_all(2**26)
    print(f"{text:32}{cables:6,} {t.bisection:10,} {t.diameter:9} {ms:14.2f} ms")
print()
for pod in PODS:
    print(pod.name)
    for f in pod.figures():
        unit = 1e15 if f.unit == "FLOP/s" else 1e9
        name = "PF/s" if f.unit == "FLOP/s" else "GB/s"
        print(
            f"  {f.name:15} {f.computed / unit:8,.1f} {name}, printed {f.printed / unit:8,.1f}   {f.how}"
        )

# %% [markdown]
# ## Explain: what a topology buys
#
# The 64 ranks of a torus cut in half lose a 4 x 4 cross-section **twice**, because the ends wrap: 32
# cables. A message corrects one dimension after the other and goes the short way round, at most 2 steps
# in each: 6 hops ([`hardware/torus.py`](../parallel_core/hardware/torus.py)). Neighbours talk at full
# speed without any switch, which is all that a ring needs. But the cut grows with the *surface*: of 4,096
# ranks each has 1/8 of a cable in it, and an all-to-all pays for that.
#
# A fat tree keeps half of all ranks' cables in every cut, at any size, for the price of switches; then
# everybody is four links away from everybody
# ([`hardware/fat_tree.py`](../parallel_core/hardware/fat_tree.py)). Leave out half of the cables upward
# (*oversubscription* 2) and the cut halves with them. Real machines are two-level: NVLink inside a node,
# a tree outside. Of the SuperPods above the A100's nodes shrink to 100 GB/s as soon as a sum leaves them;
# the H100's have so many uplinks that 256 GPUs add as fast as 8.

# %% [markdown]
# ## See: even the best link is not a line
#
# These all-reduces of eight B200 were published, not measured here. Both laws are fitted to them: plain
# alpha-beta, and one whose bandwidth rises with the square root of the size
# ([`collectives/ramp.py`](../parallel_core/collectives/ramp.py)).

# %%
curve = quoted_curve("allreduce_b200")
laws = {"plain": "alpha-beta", "ramp": "with a ramp"}
display(
    quoted(curve.rows(), laws, badge="quoted: 8 B200, stas00/ml-engineering; dashed: fitted to it")
)
for key, off in curve.errors().items():
    print(f"{laws[key]:12} off by {off['mean']:.0%} on average, {off['max']:.0%} at worst")
print(
    f"You said {my_guess_ethernet_ms} ms for 1 GiB over Ethernet; it is {8 * 2**30 / 1e11 * 1e3:.0f} ms."
)
print(f"You said {my_guess_cables} cables; it is {topology('torus:4x4x4').bisection}.")
print(f"Yours: {here}; its errors: ", end="")
print(", ".join(f"{error:+.0%}" for error in relative_errors(here.plain, here.points)))

# %% [markdown]
# ## Exercise
#
# Four functions. The last one predicts a message of **3 MB** on *your* machine. That size was measured with
# the others and left out of `here.points`, a list of (bytes, seconds) in order of size. Which of your
# points should the prediction listen to? All of them, or the two next to it? Aim at 20 %.


# %%
def seconds_of(nbytes, bandwidth, alpha=0.0):
    """Seconds of one message."""
    raise NotImplementedError


def torus_bisection(side):
    """Cables in the narrowest cut of a side x side x side torus that wraps; side is even, above 2."""
    raise NotImplementedError


def torus_diameter(side):
    """Hops of its longest route."""
    raise NotImplementedError


def my_message(points, nbytes):
    """Seconds that a message of `nbytes` will take on the machine of these points."""
    raise NotImplementedError


# %% tags=["raises-exception"]
times = [1e3 * seconds_of(2**30, bandwidth) for bandwidth in (450e9, 64e9, 50e9, 12.5e9)]
assert [round(ms, 1) for ms in times] == [2.4, 16.8, 21.5, 85.9]
assert round(1e6 * seconds_of(8, 450e9, alpha=3e-6)) == 3  # all latency
assert (torus_bisection(4), torus_diameter(4)) == (32, 6)
assert torus_bisection(16) == topology("torus:16x16x16").bisection
off = my_message(here.points, here.apart) / here.held_out - 1
for _ in range(3):
    if abs(off) > 0.2:  # your neighbours may have had the cores meanwhile: measure anew
        here = link()
        off = my_message(here.points, here.apart) / here.held_out - 1
print(f"3 MB: predicted {off:+.0%} off the run, {'within' if abs(off) <= 0.2 else 'outside'} 20 %")
assert 1 / 2 < 1 + off < 2, "the prediction must at least be within a factor of two of your run"


# %% tags=["solution"] jupyter={"source_hidden": true}
def seconds_of(nbytes, bandwidth, alpha=0.0):
    """Seconds of one message."""
    return alpha + nbytes / bandwidth


def torus_bisection(side):
    """Cables in the narrowest cut of a side x side x side torus that wraps; side is even, above 2."""
    return 2 * side * side


def torus_diameter(side):
    """Hops of its longest route."""
    return 3 * (side // 2)


def my_message(points, nbytes):
    """Seconds that a message of `nbytes` will take on the machine of these points."""
    before = max(point for point in points if point[0] <= nbytes)
    after = min(point for point in points if point[0] > nbytes)
    slope = (after[1] - before[1]) / (after[0] - before[0])  # one line for two neighbours
    return before[1] + slope * (nbytes - before[0])


# %%
times = [1e3 * seconds_of(2**30, bandwidth) for bandwidth in (450e9, 64e9, 50e9, 12.5e9)]
assert [round(ms, 1) for ms in times] == [2.4, 16.8, 21.5, 85.9]
assert round(1e6 * seconds_of(8, 450e9, alpha=3e-6)) == 3  # all latency
assert (torus_bisection(4), torus_diameter(4)) == (32, 6)
assert torus_bisection(16) == topology("torus:16x16x16").bisection
off = my_message(here.points, here.apart) / here.held_out - 1
for _ in range(3):
    if abs(off) > 0.2:  # your neighbours may have had the cores meanwhile: measure anew
        here = link()
        off = my_message(here.points, here.apart) / here.held_out - 1
print(f"3 MB: predicted {off:+.0%} off the run, {'within' if abs(off) <= 0.2 else 'outside'} 20 %")
assert 1 / 2 < 1 + off < 2, "the prediction must at least be within a factor of two of your run"
