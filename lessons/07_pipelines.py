# %% [markdown]
# # 7 · Pipelines: fill, drain, and who holds what
#
# Cut the model by its layers: rank 0 holds the first ones, the last rank the last ones and the loss. No weight
# is held twice, and all that travels is one activation between neighbours, there, and its gradient back. So a
# pipeline is the axis that bears slow wires. Its trouble is time: a rank has nothing to do until its neighbour
# has done something. The batch is therefore cut into **microbatches**, so that the ranks work on different ones.
#
# A *schedule* is the order in which each rank takes its forwards and backwards. It is nothing more, and you will
# write one. In 25 minutes you will be told why an order cannot run, race GPipe against 1F1B on four real
# processes, learn the cause of every idle moment, and train a model in an order of your own. The pipeline arena
# of the app (`shardlab app`) lets you draw one.

# %%
from IPython.display import display

from parallel_core.analysis.bubble import bubble, in_flight
from parallel_core.analysis.idle import idle, totals
from parallel_core.cli.schedule_picture import picture
from parallel_core.live import contest, on_one_link, run
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.figures import figures, simulated
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import Op, ProgramError
from parallel_core.simulate import simulate
from parallel_core.views.marks import typical_step
from parallel_core.views.player import show_race
from parallel_core.views.reading import Units

# %% [markdown]
# ## Predict: how long, how full, and which rank is the slow one?
#
# Four ranks, eight microbatches. A forward through one stage takes **1 beat**, a backward **2**, messages nothing:
# 24 beats of work a rank. **GPipe** runs all forwards, then all backwards. **1F1B** starts a backward as soon as
# there is one, and then takes one forward, one backward in turn. When is the last backward over? How many
# microbatches does rank 0 hold at its peak, having run their forward and not yet their backward?
#
# And a puzzle. Under 1F1B *one* stage is half as slow again: 1.5 and 3 beats. Does it matter which?

# %%
my_guess_gpipe = 24  # change me: beats until GPipe is through
my_guess_1f1b = 24  # change me: beats until 1F1B is through
my_guess_held = {"gpipe": 1, "1f1b": 8}  # change me: microbatches rank 0 holds at its peak
my_guess_slow = {"first": 36, "last": 36}  # change me: 1F1B's beats if that stage is the slow one

# %% [markdown]
# ## Run: an order by hand
#
# An order is text, a line a rank: `F0` is the forward of microbatch 0, `B0` its backward. That is all you write;
# sends, receives and frees follow from it ([`lower.py`](../parallel_core/pipeline/lower.py)). Change the one below,
# shorten it if you can, and break it: take a `B` away, put one before its `F`, let both ranks wait for each other.

# %%
my_order = """
F0 B0 F1 B1
F0 B0 F1 B1
"""  # change me: two ranks, two microbatches
try:
    legal(order := Order.parse(my_order))
    print(picture(simulated(order, Times.even(order.p)), 100).plain)
    print(f"{figures(order).makespan:g} beats; the ranks hold at most {order.in_flight}")
except ProgramError as error:
    print(error)

# %%
# NBVAL_CHECK_OUTPUT
for bad in ("F0 F1 B0\nF0 B0 F1 B1", "F0 B0 B1 F1\nF0 B0 F1 B1", "F0 B0 F1 B1\nF1 B1 F0 B0"):
    try:
        legal(Order.parse(bad))
    except ProgramError as error:
        print(error)
P, M = 4, 8
orders = {name: SCHEDULES[name].of(Job(p=P, m=M)) for name in ("naive", "gpipe", "1f1b")}
for name, order in orders.items():
    found = figures(order)
    print(
        f"\n{name}: {found.makespan:g} beats; idle {found.bubble_fraction:.1%} of all the time,"
        f" which is {found.bubble_ratio:.1%} of the work; the ranks hold {order.in_flight}"
    )
    if name != "naive":
        print(picture(simulated(order, Times.even(P)), 110).plain)

# %% [markdown]
# ## Explain: the same bubble
#
# *Naive* lets one microbatch through at a time: that is a model cut over ranks and no pipeline. The other two do the
# same work in another order, and idle for the same time. The first microbatch needs $p-1$ forwards to reach the last
# rank, the last one's gradient $p-1$ backwards to come home, and no order of whole stages and whole backwards can hide that: each rank stands
# $(p-1)(F+B)$ beside $m(F+B)$ of work. Two numbers go by the name of *bubble*; say which one you mean:
#
# $$\frac{\text{idle}}{\text{work}} = \frac{p-1}{m} = 37.5\,\% \qquad
# \frac{\text{idle}}{\text{all time}} = \frac{p-1}{m+p-1} = 27.3\,\%$$
#
# What differs is the last column. GPipe holds all $m$. 1F1B starts no forward before it needs to, so rank $r$ holds
# $p-r$, however many microbatches there are. **1F1B only buys memory**
# ([`gpipe.py`](../parallel_core/pipeline/gpipe.py), [`one_f_one_b.py`](../parallel_core/pipeline/one_f_one_b.py)). But
# then $m$ may grow, and *that* shrinks the bubble, until microbatches are so thin that their matmuls wait for memory
# (lesson 1). Now on four real processes:

# %%
each = {"pp": P, "microbatches": M, "layers": 8, "steps": 4}
gpipe, f1b = run(**each, schedule="gpipe"), run(**each, schedule="1f1b")
both = contest(**{"GPipe": gpipe, "1F1B": f1b})  # over one link, fitted to both
display(show_race(both.own, called=both.called))
print(f"You said {my_guess_gpipe} and {my_guess_1f1b}: 33 both; held {my_guess_held}: 8 and 4.")
steps = {name: trace.only(typical_step(trace)) for name, trace in both.own.items()}
for name, step in steps.items():
    seen = bubble(step, slots := idle(step))
    peaks = ", ".join(f"{rank.memory / 1e6:.1f}" for rank in seen.ranks)
    print(f"{name}: {seen.makespan / 1e6:.0f} ms, idle {seen.bubble_fraction:.1%}; peak MB {peaks}")
    print("  idle ms:", {str(cause): round(ns / 1e6) for cause, ns in seen.causes.items()})
    for slot in sorted(slots, key=lambda slot: -slot.ns)[:2]:
        print(f"  rank {slot.rank} {slot.sentence}")
saved = f1b.report["ledger"]["activations"]["measured"]["stage0"] / 1e6
less = [max(span.memory for span in step.by_rank[0]) / 1e6 for step in steps.values()]
print(
    f"rank 0 saved {less[0] - less[1]:.1f} MB; 4 microbatches of {saved:.2f} MB are {4 * saved:.1f}"
)

# %%
# NBVAL_CHECK_OUTPUT
for done in (gpipe, f1b):
    print(done.plan.layout, "held on four processes:", in_flight(done.trace.only(2)))
    assert done.parity < 1e-5, "a pipeline must make the gradients of one process"
print("the losses of all steps are equal, to the last bit:", gpipe.losses == f1b.losses)

# %% [markdown]
# ## See: what was each rank waiting for?
#
# The run's bubble is a little larger than 27.3 %: the optimizer's step is in it, and the wire. *Waiting* and *wire* are
# different things. A message that was not sent yet is somebody's lateness, and no faster network helps; one that is
# under way is the network's. Above, every idle slot of your run was given one cause, and the longest two their sentence
# (point at a gap in the player for the others). Now the same on paper, with messages that take half a beat.

# %%
# NBVAL_CHECK_OUTPUT
slow_wire = Times.even(P, tcomm=0.5)
for name in ("gpipe", "1f1b"):
    trace = simulated(orders[name], slow_wire)
    print(f"{name}, messages take half a beat: {trace.makespan / 1e9:g} beats")
    for rank, causes in totals(slots := idle(trace)).items():
        print(f"  rank {rank}", {str(cause): ns / 1e9 for cause, ns in causes.items()})
    print(f"  rank {slots[0].rank} {slots[0].told(Units(beats=True).time)}")
print("\n1F1B with sends that wait for their receive, in line with the computing:")
blocking = lower(orders["1f1b"], blocking=True)
try:
    simulate(blocking, PipelineCost.of(orders["1f1b"], Times.even(P)), rendezvous=True)
except ProgramError as error:
    print(error)

# %% [markdown]
# ## Explain: 1F1B is tight, and tight is fragile
#
# With messages of half a beat GPipe takes 36, its $2(p-1)$ hops on the way; 1F1B takes 41. In its steady state two
# neighbours hand a microbatch there and a gradient back in turn, and both stand still while it is on the wire; GPipe
# sends the same messages while it computes the next microbatch. So 1F1B bought its memory with slack: "F stage0 mb4 was
# ready, the order runs it later", says the sentence.
#
# And with *blocking* sends it does not run at all: rank 2 wants to hand a forward down just as rank 3 wants to hand a
# gradient up, each waits for the other to take its own, and ranks 0 and 1 stand behind them. Real libraries post such
# pairs together or send without waiting; here each direction has a lane of its own. All this is known of the *order*,
# before anything runs ([`analysis/idle.py`](../parallel_core/analysis/idle.py),
# [`simulate.py`](../parallel_core/simulate.py)).

# %%
# NBVAL_CHECK_OUTPUT
orders["interleaved"] = SCHEDULES["interleaved"].of(Job(p=P, m=M, v=2))
for name in ("1f1b", "interleaved"):
    order, found = orders[name], figures(orders[name])
    sends = [sum(instr.op is Op.SEND for instr in rank) for rank in lower(order).ranks]
    late = figures(order, slow_wire).makespan
    print(
        f"{name}: {found.makespan:g} beats, idle {found.bubble_fraction:.1%}; {order.chunks} stages a"
        f" rank, of which it holds {order.in_flight}\n  sends by rank {sends}; {late:g} beats if"
        " messages take half a beat"
    )
print(picture(simulated(orders["interleaved"], Times.even(P)), 130).plain)
print("\none stage 1.5 times as slow: stage  0     1     2     3")
for name in ("1f1b", "gpipe"):
    slow = [figures(orders[name], Times.even(P, slow={at: 1.5})).makespan for at in range(P)]
    print(f"{name:33}", "  ".join(f"{beats:4g}" for beats in slow))

# %%
print(f"You said {my_guess_slow} beats. On four processes, three layers against two:")
uneven = {**each, "layers": 9, "schedule": "1f1b", "parity": False}
pair = on_one_link([run(**uneven, stage_layers=cut) for cut in ("3,2,2,2", "2,2,2,3")])
first, last = (done.own.only(typical_step(done.own)).makespan / 1e6 for done in pair)
print(f"first {first:.0f}, last {last:.0f} ms: {last / first:.2f} times; on paper {45 / 40.5:.2f}")

# %% [markdown]
# ## Explain: interleaving's price, and the slow stage
#
# **Interleaving** gives a rank $v$ thin stages instead of a thick one: rank 0 has stages 0 and 4. The pipeline then
# fills in steps of $1/v$, and the bubble is $(p-1)/(vm)$ of the work. The price: $v$ times the messages of a rank in
# the middle, the way from the last rank round to the first, and more in flight, since Megatron's order warms up longer:
# rank 0 peaks at **11 half-chunks = 5.5 microbatches** where 1F1B holds 4.
#
# **The slow stage** $s$ works 36 beats whatever the order, and waits $3s$ while the stages before it fill and drain. From
# the end of its first forward until the first gradient is back, $3(p-1-s)$ pass; but in that time it does its other
# $p-1-s$ warm-up forwards, at 1.5 beats each, and after that it never waits again, being the slowest. That makes
# $36 + 3s + 1.5(3-s) = 40.5 + 1.5s$: a stage early in the pipeline hides its slowness in its own waiting. The last one
# has none to hide in, and it is the one that also has the head: give it fewer layers. GPipe is two queues one after the
# other, each at the pace of the slow stage wherever that stands: $(8\cdot1.5+3) + (8\cdot3+6) = 45$.
#
# ## Exercise
#
# Three formulas and a pipeline. `my_pipeline` is an order for **3 ranks and 5 microbatches** in at most **21 beats** in
# which no rank ever holds more than **3**. It is checked, simulated, and then it trains a model on three real
# processes: the gradients must equal those of one process, and the ranks must have done what you wrote.


# %%
def makespan(p, m, f, b):
    """Beats of GPipe, and of 1F1B."""
    raise NotImplementedError


def fewest_microbatches(p, share, of):
    """The smallest m with a bubble of at most `share` `of` "the total" or "the work"."""
    raise NotImplementedError


def holds(schedule, p, m, rank):
    """The most microbatches in flight on a rank under "gpipe" or "1f1b"."""
    raise NotImplementedError


def my_pipeline():
    """Three lines of text, F0 to B4 in each."""
    raise NotImplementedError


# %% tags=["raises-exception"]
for p, m in ((4, 8), (2, 5), (3, 3), (5, 12)):
    for name in ("gpipe", "1f1b"):
        order = SCHEDULES[name].of(Job(p=p, m=m))
        beats, held = makespan(p, m, f=1, b=2), [holds(name, p, m, rank) for rank in range(p)]
        assert beats == figures(order).makespan, f"{name}, p={p}, m={m} takes no {beats} beats"
        assert held == list(order.in_flight), f"{name}, p={p}, m={m}: the ranks do not hold {held}"
for share_of, m in {"the total": 57, "the work": 60}.items():
    found = fewest_microbatches(4, 0.05, of=share_of)
    assert found == m, f"{found} is not the smallest m for 5 % of {share_of}"
legal(mine := Order.parse(my_pipeline()), p=3, m=5)
print(picture(simulated(mine, Times.even(3)), 100).plain)
assert figures(mine).makespan <= 21, f"{figures(mine).makespan:g} beats are more than 21"
assert max(mine.in_flight) <= 3, f"your ranks hold {mine.in_flight}; 3 is the budget"
done = run(pp=3, order=my_pipeline(), layers=6, steps=3)
for row, tasks in zip(done.trace.only(1).by_rank, mine.ranks, strict=True):
    assert [(s.op, s.mb) for s in row if s.op in "FBIW"] == [(t.op, t.mb) for t in tasks]
assert max(in_flight(done.trace.only(1))) <= 3 and done.parity < 1e-5
print(f"It trained, {done.parity:.1g} from one process: losses {done.losses}")


# %% tags=["solution"] jupyter={"source_hidden": true}
def makespan(p, m, f, b):
    """Beats of GPipe, and of 1F1B."""
    return (m + p - 1) * (f + b)


def fewest_microbatches(p, share, of):
    """The smallest m with a bubble of at most `share` `of` "the total" or "the work"."""
    m = 1
    while (p - 1) / (m + p - 1 if of == "the total" else m) > share:
        m += 1
    return m


def holds(schedule, p, m, rank):
    """The most microbatches in flight on a rank under "gpipe" or "1f1b"."""
    return m if schedule == "gpipe" else min(p - rank, m)


def my_pipeline():
    """Three lines of text, F0 to B4 in each."""
    return """
        F0 F1 F2 B0 F3 B1 F4 B2 B3 B4
        F0 F1 B0 F2 B1 F3 B2 F4 B3 B4
        F0 B0 F1 B1 F2 B2 F3 B3 F4 B4
    """


# %%
for p, m in ((4, 8), (2, 5), (3, 3), (5, 12)):
    for name in ("gpipe", "1f1b"):
        order = SCHEDULES[name].of(Job(p=p, m=m))
        beats, held = makespan(p, m, f=1, b=2), [holds(name, p, m, rank) for rank in range(p)]
        assert beats == figures(order).makespan, f"{name}, p={p}, m={m} takes no {beats} beats"
        assert held == list(order.in_flight), f"{name}, p={p}, m={m}: the ranks do not hold {held}"
for share_of, m in {"the total": 57, "the work": 60}.items():
    found = fewest_microbatches(4, 0.05, of=share_of)
    assert found == m, f"{found} is not the smallest m for 5 % of {share_of}"
legal(mine := Order.parse(my_pipeline()), p=3, m=5)
print(picture(simulated(mine, Times.even(3)), 100).plain)
assert figures(mine).makespan <= 21, f"{figures(mine).makespan:g} beats are more than 21"
assert max(mine.in_flight) <= 3, f"your ranks hold {mine.in_flight}; 3 is the budget"
done = run(pp=3, order=my_pipeline(), layers=6, steps=3)
for row, tasks in zip(done.trace.only(1).by_rank, mine.ranks, strict=True):
    assert [(s.op, s.mb) for s in row if s.op in "FBIW"] == [(t.op, t.mb) for t in tasks]
assert max(in_flight(done.trace.only(1))) <= 3 and done.parity < 1e-5
print(f"It trained, {done.parity:.1g} from one process: losses {done.losses}")
