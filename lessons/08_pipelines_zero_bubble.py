# %% [markdown]
# # 8 · Pipelines: cutting the backward in half
#
# The last lesson ended with a bubble that no order of whole backwards can shrink. But a backward is two things. For
# each weight matrix it makes the gradient of the *input*, $dX = dY\,W^T$, for which the rank before is waiting. And it
# makes the gradient of the *weights*, $dW = X^T dY$, for which nobody is waiting until the optimizer's step. Call them
# **I** and **W**, and let W be done whenever a rank has nothing better to do.
#
# In 25 minutes you will run the two halves as separate calls on four real processes, watch the bubble inside the ranks
# go to zero, find out what that is worth and who pays for it, meet the schedules that pay with the *placement* of the
# stages or with a *second copy* of the weights, and beat 33 beats yourself.

# %%
from dataclasses import replace
from statistics import median

from IPython.display import display

from parallel_core.analysis.bubble import bubble, in_flight
from parallel_core.cli.schedule_picture import picture
from parallel_core.live import on_one_link, run
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import figures, simulated
from parallel_core.pipeline.formulas import FORMULAS, Beat
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.pipeline.zb_auto import zb_auto
from parallel_core.views.marks import typical_step

# %% [markdown]
# ## Predict: how much is a filler worth?
#
# Four ranks, eight microbatches, and F, I and W take **1 beat** each; a whole backward, B, takes two. So a rank has 24
# beats of work and 1F1B takes 33. A microbatch is *held* from its F to its W (or whole B).
#
# No rank may hold more than the **4** that 1F1B's first rank holds: how soon can it be over? And how many must ranks be
# allowed to hold until *none* of them idles between its own first and last task? When is it over then?

# %%
my_guess_split = 33  # change me: beats, with at most 4 held
my_guess_held = 4  # change me: microbatches held, for no idle time inside any rank
my_guess_then = 24  # change me: beats, with that many held

# %% [markdown]
# ## Run: I and W on real ranks
#
# Three runs of the same training. *1F1B* has whole backwards. *ZB-H1* cuts them and holds no more than four. The third
# is an order found by `zb_auto` for room for seven, given to the run as text. The player shows a step of ZB-H1; look for
# the Ws, and take the *own device* clock. The lines below it are on that clock, over one link for all three.

# %%
each = {"pp": 4, "microbatches": 8, "layers": 8, "steps": 4}
roomy = zb_auto(4, 8, cap=7)
done = dict(zip(("1F1B", "ZB-H1", "seven held"), on_one_link([
    run(**each, schedule="1f1b"), run(**each, schedule="zb-h1"), run(**each, order=str(roomy)),
]), strict=True))  # fmt: skip
own = {name: one.own.only(typical_step(one.own)) for name, one in done.items()}
display(done["ZB-H1"])


def took(trace, op):
    """Per rank the median of an op, ms."""
    tasks = [[s.duration / 1e6 for s in row if s.op == op] for row in trace.by_rank]
    return [median(times) for times in tasks if times]


for name, step in own.items():
    seen, ops = bubble(step), {op: took(step, op) for op in "FBIW"}
    print(f"{name}: {seen.makespan / 1e6:.0f} ms, idle {seen.bubble_fraction:.1%} of all the time and"
          f" {seen.internal_fraction:.1%} inside; rank 3 holds {seen.ranks[3].memory / 1e6:.1f} MB")  # fmt: skip
    print("  median ms:", {op: f"{median(times):.1f}" for op, times in ops.items() if times})
ran = done["ZB-H1"].trace.only(2).spans
begun = {(s.rank, s.mb): s.t_start for s in ran if s.op == "W"}
sends = [s.t_start <= begun[s.rank, s.mb] for s in ran if s.op == "send" and s.lane == "to_prev"]
print(f"ZB-H1: {sum(sends)} of {len(sends)} gradients were under way before their own W began")
print(f"You said {my_guess_split} beats; {my_guess_held} held, then {my_guess_then} beats.")

# %%
# NBVAL_CHECK_OUTPUT
for name, one in done.items():
    assert one.parity < 1e-5, "cutting the backward must not change a gradient"
    print(f"{name}: held on four processes {in_flight(one.trace.only(2))};", end=" ")
    print("losses those of 1F1B to the last bit:", one.losses == done["1F1B"].losses)


# %%
# NBVAL_CHECK_OUTPUT
def streamed(order):
    """The order twice: each rank begins the next step as soon as it is through with this one."""
    rows = (row + tuple(replace(t, mb=t.mb + order.m) for t in row) for row in order.ranks)
    return Order(tuple(rows))


orders = {"1f1b": SCHEDULES["1f1b"].of(Job(p=4, m=8))}
orders |= {f"zb-auto {cap}": zb_auto(4, 8, cap=cap) for cap in (3, 4, 5, 6, 7, 8)}
print("              beats  held          idle inside, by rank    two steps: barrier, none")
for name, order in orders.items():
    found, two = figures(order), figures(streamed(order)).makespan
    inside = " ".join(f"{beats:g}" for beats in found.internal_idle)
    print(f"{name:14}{found.makespan:5g}  {order.in_flight!s:14}{inside:>12}{2 * found.makespan:22g}{two:8g}")  # fmt: skip
for name in ("1f1b", "zb-auto 4", "zb-auto 7"):
    print(f"\n{name}\n{picture(simulated(orders[name], Times.even(4)), 110).plain}")

# %% [markdown]
# ## Explain: nobody waits for W, and the barrier has the last word
#
# Two things happen at **27**. The gradient leaves after I, a beat sooner at every rank on its way home; and W fills what
# would be idle. At 1F1B's memory (ZB-H1, [`zb_h1.py`](../parallel_core/pipeline/zb_h1.py)) a bubble of $(p-1)(F+I-W)$
# is left where 1F1B has $(p-1)(F+I+W)$: 3 beats for 9. With room for **$2p-1=7$** each rank runs far enough ahead to be
# busy until its first gradient is back: **idle inside: 0** on every rank, and the picture is a parallelogram. Zero
# bubble is bought with memory ([`zb_h2.py`](../parallel_core/pipeline/zb_h2.py)).
#
# And yet it takes 27: 24 of work and 3 until rank 3 has something to do. What vanished is the idle time *inside* a
# rank. It pays only if rank 0, through at 24, may begin the next step while rank 3 still works on this one: 51 beats for
# two steps. Mostly it may not. Clipping needs the norm of *all* gradients, mixed precision the news that none is
# infinite, before any rank may update: a **barrier**, and two steps take 54. The authors update at once, and roll back
# in the rare step in which the late news is bad. Your run had the barrier: it is the all-reduce at the end of each rank.
#
# Your F, I and W are not equal, either. Attention and norms have an I but next to no W, so W is the shortest and fills
# less. And two calls cost more than one: compare I + W with B above. So the idle share fell in your run, while part of
# the time won went into the cut itself ([`deferred.py`](../parallel_core/deferred.py) does it, and computes nothing
# twice); the larger the matmuls, the less it costs.

# %%
# NBVAL_CHECK_OUTPUT
print("p=4 m=8      beats  idle inside, by rank   held  copies of the weights  rank 0 has stages")
for name in ("zb-h2", "zb-v", "v-half", "v-min", "dualpipe", "dualpipe-v"):
    schedule = SCHEDULES[name]
    order = schedule.of(Job(p=4, m=8, v=schedule.fewest))
    found = figures(order)
    inside = " ".join(f"{beats:g}" for beats in found.internal_idle)
    held = max(found.peak_in_flight)
    print(f"{name:13}{found.makespan:5g}{inside:>22}{held:7g}{schedule.copies:23}  {order.held[0]}")
zb_v = simulated(SCHEDULES["zb-v"].of(Job(p=4, m=8, v=2)), Times.even(4))
print(
    f"\nzb-v\n{picture(zb_v, 110).plain}\n\np=8 m=24, bubble in beats:  the papers' formula  simulated"
)
for name in ("1f1b", "zb-h1", "dualpipe"):
    said = FORMULAS[name].bubble(8, Beat(f=1, i=1, w=1, overlapped=3), 1)
    found = figures(SCHEDULES[name].of(Job(p=8, m=24)))
    print(f"{name:30}{said:17g}{max(found.spans) - found.work[0]:11g}")

# %% [markdown]
# ## Explain: placement, or a second copy
#
# **V shapes.** Give each rank two half-stages, not down and down again but down and *back up*: rank 0 has the first and
# the last. Where the V turns, a rank hands its work to itself, and a microbatch's first gradient is born on the rank that
# started it. So every rank waits about equally long, and holds equally much. **ZB-V** has no idle time inside at 1F1B's
# memory. **V-Half** and **V-Min** repeat a block in which each microbatch lives as briefly as possible: half and a
# third of 1F1B's memory for long pipelines, for some bubble. The price is twice the messages.
#
# **DualPipe** lets microbatches in at *both ends*. A forward of one direction and a backward of the other follow each
# other as a pair, F&B, and one computes while the other's messages (in a mixture of experts, the all-to-alls) are under
# way. Every rank then needs the stages of both directions: **two copies of the weights and of their gradients**.
# DualPipeV folds it into a V, with one.
#
# **Mind the letter.** In DeepSeek's formulas B is the *whole* backward, in the zero-bubble papers only our I. So their
# ZB1P, $(p-1)(F+B-2W)$, and ZB-H1's $(p-1)(F+I-W)$ are one number. For PP=8, F=1, B=2, W=1 and F&B=3: 1F1B
# $(p-1)(F+B)=$ **21**, ZB1P **7**, DualPipe $(\frac p2-1)(F\&B+B-3W)=$ **6**. It counts a pair as one piece, whose
# messages leave at its end; the simulated order lets each leave when it is made, and half of the bubble remains
# ([`formulas.py`](../parallel_core/pipeline/formulas.py)).

# %%
dual, async_ = run(**each, schedule="dualpipe"), run(**each, schedule="pipedream")
plain, owns = done["1F1B"], "params"
copies = [sum(one.report["ledger"]["memory"]["measured"][owns]) for one in (dual, plain)]
print(
    f"DualPipe: {copies[0] / copies[1]:.2f} times the weights, held {in_flight(dual.trace.only(2))}"
)
assert dual.parity < 1e-5 and async_.parity < 1e-5
peaks = [[rank.memory for rank in bubble(one.trace.only(2)).ranks] for one in (async_, plain)]
sizes = plain.report["ledger"]["memory"]["measured"][owns]
extra = [(a - b) / size for a, b, size in zip(*peaks, sizes, strict=True)]
print("PipeDream holds more weights than 1F1B, in copies:", ", ".join(f"{n:.1f}" for n in extra))
print(
    f"losses: 1F1B, an update a step, {plain.losses[-1]:.2f}; PipeDream, eight, {async_.losses[-1]:.2f}"
)

# %% [markdown]
# ## Explain: the oldest way to have no bubble
#
# **PipeDream** has no flush at all: a rank updates its weights after *every* backward and goes on, so in a stream the
# pipeline never drains. But a microbatch's backward must use the weights of its forward. Rank $r$ therefore stashes
# $p-r$ versions, **4, 3, 2, 1**, the newest included: 3, 2, 1 and 0 more than 1F1B, as you measured (roughly: the peaks
# of the two runs need not fall together). And each gradient of rank $r$ is taken $p-1-r$ versions before the one it
# updates. It is asynchronous training, lesson 5's, with a staleness that is known in advance. So `parity` compares it
# with one process that imitates the stale weights. No other schedule of these two lessons changes a gradient at all.
#
# Last: real stages are not equal, and rules made for equal ones leave gaps. **zb-auto** takes the times of every rank, of
# the messages, and the memory, and *searches* ([`zb_auto.py`](../parallel_core/pipeline/zb_auto.py)). The *bubble rate* is
# what the papers print: of the longest way from a rank's first task to its last, the share that is not work.

# %%
# NBVAL_CHECK_OUTPUT
uneven = Times.even(4, tf=1.0, ti=1.1, tw=0.7, tcomm=0.25, slow={1: 1.3})
fixed = {name: SCHEDULES[name].of(Job(p=4, m=8)) for name in ("1f1b", "zb-h1", "zb-h2")}
found = {f"zb-auto {cap}": zb_auto(4, 8, times=uneven, cap=cap) for cap in (4, 5, 7)}
for name, order in {**fixed, **found}.items():
    f = figures(order, uneven)
    print(
        f"{name:10}{f.makespan:7.2f} beats, bubble rate {f.bubble_rate:6.1%}, holds {order.in_flight}"
    )

# %%
measured = {op: took(own["ZB-H1"], op) for op in "FIW"}
yours = Times(**{op.lower(): tuple(times) for op, times in measured.items()})
for name, order in {"zb-h1": fixed["zb-h1"], "zb-auto 4": zb_auto(4, 8, times=yours, cap=4),
                    "zb-auto 7": zb_auto(4, 8, times=yours, cap=7)}.items():  # fmt: skip
    f = figures(order, yours)
    print(f"your own times: {name:10}{f.makespan:6.1f} ms, idle inside {f.internal_fraction:.1%}")

# %% [markdown]
# ## Exercise
#
# `my_schedule` is an order of F, I and W (B, if you like) for **4 ranks and 8 microbatches** that holds at most **4**
# and takes **less than 33** beats; par is 27, since the last rank starts at 3 and has work for 24. Begin with
# `print(fixed["1f1b"])`, cut a backward, and ask which W can wait. It must pass the legality checker, and then it
# trains a model on four processes. Before that, two formulas.


# %%
def bubbles(p, f, b, w, pair):
    """Beats of bubble of "1f1b", "zb1p" and "dualpipe"; b is the *whole* backward."""
    raise NotImplementedError


def room_for_no_idle_time(p):
    """The microbatches a rank must be allowed to hold until none idles inside, if F = I = W."""
    raise NotImplementedError


def my_schedule():
    """Four lines of text."""
    raise NotImplementedError


# %% tags=["raises-exception"]
found = bubbles(8, f=1, b=2, w=1, pair=3)
assert found == {"1f1b": 21, "zb1p": 7, "dualpipe": 6}, f"not {found}; b is the whole backward"
halves = Beat(f=1.0, i=1.25, w=0.75)  # the zero-bubble papers' letters
assert bubbles(8, f=1.0, b=2.0, w=0.75, pair=3)["zb1p"] == FORMULAS["zb-h1"].bubble(8, halves, 1)
for p, m in ((2, 6), (3, 8), (4, 8)):
    room = room_for_no_idle_time(p)
    assert sum(figures(zb_auto(p, m, cap=room)).internal_idle) == 0, f"{room} is too few for p={p}"
    assert sum(figures(zb_auto(p, m, cap=room - 1)).internal_idle) > 0, f"{room - 1} will do"
legal(mine := Order.parse(my_schedule()), p=4, m=8)
print(picture(simulated(mine, Times.even(4)), 110).plain)
assert max(mine.in_flight) <= 4, f"your ranks hold {mine.in_flight}; 4 is the budget"
assert figures(mine).makespan < 33, f"{figures(mine).makespan:g} beats do not beat 33"
trained = run(pp=4, order=my_schedule(), steps=3)
for row, tasks in zip(trained.trace.only(1).by_rank, mine.ranks, strict=True):
    assert [(s.op, s.mb) for s in row if s.op in "FBIW"] == [(t.op, t.mb) for t in tasks]
assert trained.parity < 1e-5
print(f"{figures(mine).makespan:g} beats (par 27), and it trained: losses {trained.losses}")


# %% tags=["solution"] jupyter={"source_hidden": true}
def bubbles(p, f, b, w, pair):
    """Beats of bubble of "1f1b", "zb1p" and "dualpipe"; b is the *whole* backward."""
    return {
        "1f1b": (p - 1) * (f + b),
        "zb1p": (p - 1) * (f + b - 2 * w),
        "dualpipe": (p / 2 - 1) * (pair + b - 3 * w),
    }


def room_for_no_idle_time(p):
    """The microbatches a rank must be allowed to hold until none idles inside, if F = I = W."""
    return 2 * p - 1


def my_schedule():
    """Four lines of text."""
    return """
        F0 F1 F2 F3 I0 W0 F4 I1 W1 F5 I2 W2 F6 I3 W3 F7 I4 W4 I5 W5 I6 W6 I7 W7
        F0 F1 F2 I0 F3 I1 W0 F4 I2 W1 F5 I3 W2 F6 I4 W3 F7 I5 W4 I6 W5 I7 W6 W7
        F0 F1 I0 F2 I1 F3 I2 W0 F4 I3 W1 F5 I4 W2 F6 I5 W3 F7 I6 W4 I7 W5 W6 W7
        F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 F6 I6 W3 F7 I7 W4 W5 W6 W7
    """


# %%
found = bubbles(8, f=1, b=2, w=1, pair=3)
assert found == {"1f1b": 21, "zb1p": 7, "dualpipe": 6}, f"not {found}; b is the whole backward"
halves = Beat(f=1.0, i=1.25, w=0.75)  # the zero-bubble papers' letters
assert bubbles(8, f=1.0, b=2.0, w=0.75, pair=3)["zb1p"] == FORMULAS["zb-h1"].bubble(8, halves, 1)
for p, m in ((2, 6), (3, 8), (4, 8)):
    room = room_for_no_idle_time(p)
    assert sum(figures(zb_auto(p, m, cap=room)).internal_idle) == 0, f"{room} is too few for p={p}"
    assert sum(figures(zb_auto(p, m, cap=room - 1)).internal_idle) > 0, f"{room - 1} will do"
legal(mine := Order.parse(my_schedule()), p=4, m=8)
print(picture(simulated(mine, Times.even(4)), 110).plain)
assert max(mine.in_flight) <= 4, f"your ranks hold {mine.in_flight}; 4 is the budget"
assert figures(mine).makespan < 33, f"{figures(mine).makespan:g} beats do not beat 33"
trained = run(pp=4, order=my_schedule(), steps=3)
for row, tasks in zip(trained.trace.only(1).by_rank, mine.ranks, strict=True):
    assert [(s.op, s.mb) for s in row if s.op in "FBIW"] == [(t.op, t.mb) for t in tasks]
assert trained.parity < 1e-5
print(f"{figures(mine).makespan:g} beats (par 27), and it trained: losses {trained.losses}")
