# %% [markdown]
# # 3 · Collectives: what moves
#
# Every method of this course ends in the same handful of moves between ranks. One has something and all
# need it; all have a piece and each needs the whole; all have a summand and need the sum. These moves have
# names, and every name is a promise about **who holds what afterwards**. How the bytes travel is another
# question, and the next lesson.
#
# In 25 minutes you will run every collective on four real processes with numbers small enough to add in
# your head, take the most important one apart, and find out which collective is the backward of
# which. The collective studio of the app (`shardlab app`) shows the same runs as moving tiles.

# %%
from IPython.display import display

from parallel_core.collectives import TRANSPOSE
from parallel_core.live_collectives import collective

# %% [markdown]
# ## Predict: what does rank 2 hold?
#
# Four ranks, a list of four numbers each. The tens say whose it was, the ones which *chunk* it is:
#
# ```
# rank 0    0  1  2  3
# rank 1   10 11 12 13
# rank 2   20 21 22 23
# rank 3   30 31 32 33
# ```
#
# They do a **reduce-scatter**: chunk $c$ of all ranks is summed, and the sum goes to rank $c$ alone. Then, from
# the same start, an **all-to-all**: chunk $c$ of each rank goes to rank $c$. What does rank 2 hold each time?

# %%
my_guess_reduce_scatter = [0]  # change me: rank 2's numbers after a reduce-scatter
my_guess_all_to_all = [0, 0, 0, 0]  # change me: and after an all-to-all

# %% [markdown]
# ## Run: every collective, on four processes
#
# One line a collective; the second word is how the bytes travel, which does not change what arrives.

# %%
mine = [[10 * rank + chunk for chunk in range(4)] for rank in range(4)]
how = {"broadcast": "tree", "scatter": "tree", "gather": "tree", "reduce": "tree", "all_gather": "ring",
       "reduce_scatter": "ring", "all_reduce": "ring", "all_to_all": "pairwise"}  # fmt: skip
done = {op: collective(op, algorithm, integers=mine) for op, algorithm in how.items()}
for guess, op in ((my_guess_reduce_scatter, "reduce_scatter"), (my_guess_all_to_all, "all_to_all")):
    truth = [number for number in done[op].after[2] if number is not None]
    print(f"{op}: you said {guess}, rank 2 holds {truth}")

# %%
# NBVAL_CHECK_OUTPUT
for op in done:
    print(done[op], end="\n\n")
    assert done[op].report["max_rel_error_to_torch"] == 0.0, "torch.distributed says otherwise"

# %% [markdown]
# ## Explain: a collective is a rewrite of a layout
#
# The words after each name are its **layout line**; the code, the app and the papers' shapes all use it.
# `x[n, C]` is the whole buffer, $n$ chunks of $C$ numbers.
#
# | mark | meaning |
# |---|---|
# | `/r` | sharded over the ranks: rank $r$ has chunk $r$ and nothing else |
# | `+r` | a sum whose summands still lie on different ranks |
# | `@root` | on one rank only |
# | nothing | replicated: every rank has all of it |
#
# So a broadcast takes `@root` away, an all-gather takes `/r` away, an all-reduce takes `+r` away, and a
# reduce-scatter turns `+r` into `/r`. An all-to-all moves `/r` from one dimension to another: it *transposes*
# the table above, rank against chunk. Nothing else ever moves. (A **barrier** moves no data: nobody leaves
# before the last has come. **Send and receive** are the two halves of a message, of which all others are made.)
# The promises stand term by term in [`collectives/promise.py`](../parallel_core/collectives/promise.py); your
# runs were held to them, and to what `torch.distributed` made of the same numbers.

# %% [markdown]
# ## See: the sums, written out
#
# Every addition your ranks made in the reduce-scatter, as they made it, and what an all-reduce adds to that.
# `part[2,3]` is chunk 2, summed over three ranks so far.

# %%
# NBVAL_CHECK_OUTPUT
print(done["reduce_scatter"].sums)
same = done["all_reduce"].sums == done["reduce_scatter"].sums
print(f"\nthe all-reduce made the very same additions: {same}")
gathered = collective("all_gather", "ring", integers=[
    [x or 0 for x in row] for row in done["reduce_scatter"].after  # only rank r's chunk r is read
])  # fmt: skip
print(
    f"reduce-scatter, then all-gather, is the all-reduce: {gathered.after == done['all_reduce'].after}"
)
print(
    f"bytes sent a rank: {done['reduce_scatter'].sent[0]} + {gathered.sent[0]} = {done['all_reduce'].sent[0]}"
)
print(
    f"\n{collective('all_reduce', 'ring', integers=[[1, 2, 3, 4, 5], [10, 20, 30, 40, 50], [100] * 5])}"
)

# %%
display(done["all_reduce"])

# %% [markdown]
# ## Explain: all-reduce = reduce-scatter + all-gather
#
# Look at the timeline: in the first half of the messages numbers are added, in the second half finished sums
# are handed round. Half of an all-reduce's bytes are the reduce-scatter, half the all-gather. That is not a
# trick of the ring: to own all sums everywhere, each sum must be made somewhere and then be told. Whole methods
# live in the gap between the halves. ZeRO stops after the first, lets each rank update its own chunk of the
# weights, and does the second with the *new weights* (lesson 6); sequence parallelism does useful work on the
# shards in between (lesson 10).

# %% [markdown]
# ## See: which collective is the backward of which?
#
# A collective is linear: outputs $= M \cdot$ inputs, $M$ all zeros and ones. The gradient goes back through
# $M^T$. And $M^T$ has a test that needs no calculus: $\langle Mx, y\rangle = \langle x, M^Ty\rangle$ for all
# $x, y$. Here it is on real ranks: one collective on $x$, the candidate for its transpose on $y$.

# %%
# NBVAL_CHECK_OUTPUT
y = [[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [9, 7, 9, 3]]


def dot(one, other):
    """The sum of products over all ranks, where both hold a number."""
    pairs = [p for a, b in zip(one, other, strict=True) for p in zip(a, b, strict=True)]
    return sum(a * b for a, b in pairs if None not in (a, b))


for op in how:
    back = collective(TRANSPOSE[op], how[TRANSPOSE[op]], integers=y)
    left, right = dot(done[op].after, y), dot(done[op].before, back.after)
    print(f"<{op} x, y> = {left}   <x, {TRANSPOSE[op]} y> = {right}")
    assert left == right
wrong = dot(done["all_gather"].before, collective("all_gather", "ring", integers=y).after)
print(f"a wrong pair: <x, all_gather y> = {wrong}, not {dot(done['all_gather'].after, y)}")

# %% [markdown]
# ## Explain: arrows turn round, copies become sums
#
# To transpose a collective, turn every arrow round: what was copied to many is now summed from many. Hence the
# pairs of [`TRANSPOSE`](../parallel_core/collectives/__init__.py). FSDP gathers weights in the forward, *so* it
# reduce-scatters gradients in the backward; expert parallelism sends tokens out by an all-to-all and gets their
# gradients back by one.
#
# One famous exception is none. Megatron's **g** is an all-reduce in the forward, and its backward is the
# *identity*. The rule above is about the sum of all ranks' losses. After g every rank holds the same numbers and
# computes the **same** loss, and that loss counts once, not once a rank. Say the loss is $3z$ with
# $z = \sum_i y_i$: every rank finds $dL/dz = 3$, and since $z$ grows by one when any $y_i$ does, 3 is already the
# gradient of $y_i$. All-reduced it would be 12 on four ranks. (Its partner **f** does nothing in the forward and
# an all-reduce in the backward: there every rank contributes a *different* part of the gradient.)

# %% [markdown]
# ## Exercise
#
# Below are the numbers of four other ranks. Fill in what each holds afterwards, `None` where the collective
# gives it nothing; take a pencil rather than a loop. Then name the transposes, and write g's backward. It is
# checked against a run.

# %%
given = [[1, 2, 3, 4], [5, 6, 7, 8], [2, 2, 2, 2], [0, 1, 0, 1]]


def final_buffers(op):
    """Four lists of four, for op "all_gather", "reduce_scatter" or "all_to_all"."""
    raise NotImplementedError


def transpose_of(op):
    """The collective that is the backward of "all_gather", "broadcast", "all_to_all"."""
    raise NotImplementedError


def backward_of_g(gradient):
    """What Megatron's g hands back, given dL/dz of a loss that every rank computes alike."""
    raise NotImplementedError


# %% tags=["raises-exception"]
for op in ("all_gather", "reduce_scatter", "all_to_all"):
    ran = collective(op, how[op], integers=given)
    assert [list(row) for row in ran.after] == final_buffers(op), f"{op}:\n{ran}"
assert transpose_of("all_gather") == "reduce_scatter"
assert transpose_of("broadcast") == "reduce"
assert transpose_of("all_to_all") == "all_to_all"
z = sum(row[1] for row in given)  # what g makes of column 1, the same on every rank
grows = 3 * (z + 1) - 3 * z  # the loss 3z, when one rank's number grows by one
assert backward_of_g(3) == grows, "the replicated loss counts once"
print("All true, and checked against your own run.")


# %% tags=["solution"] jupyter={"source_hidden": true}
def final_buffers(op):
    """Four lists of four, for op "all_gather", "reduce_scatter" or "all_to_all"."""
    return {
        "all_gather": [[1, 6, 2, 1]] * 4,
        "reduce_scatter": [
            [8, None, None, None],
            [None, 11, None, None],
            [None, None, 12, None],
            [None, None, None, 15],
        ],
        "all_to_all": [[1, 5, 2, 0], [2, 6, 2, 1], [3, 7, 2, 0], [4, 8, 2, 1]],
    }[op]


def transpose_of(op):
    """The collective that is the backward of "all_gather", "broadcast", "all_to_all"."""
    return {"all_gather": "reduce_scatter", "broadcast": "reduce", "all_to_all": "all_to_all"}[op]


def backward_of_g(gradient):
    """What Megatron's g hands back, given dL/dz of a loss that every rank computes alike."""
    return gradient


# %%
for op in ("all_gather", "reduce_scatter", "all_to_all"):
    ran = collective(op, how[op], integers=given)
    assert [list(row) for row in ran.after] == final_buffers(op), f"{op}:\n{ran}"
assert transpose_of("all_gather") == "reduce_scatter"
assert transpose_of("broadcast") == "reduce"
assert transpose_of("all_to_all") == "all_to_all"
z = sum(row[1] for row in given)  # what g makes of column 1, the same on every rank
grows = 3 * (z + 1) - 3 * z  # the loss 3z, when one rank's number grows by one
assert backward_of_g(3) == grows, "the replicated loss counts once"
print("All true, and checked against your own run.")
