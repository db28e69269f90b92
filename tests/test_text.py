"""The text, its global batches, and which rank takes which rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core import places
from parallel_core.plan import Plan, PlanError
from parallel_core.text import Sampler, corpus, rows_of


def test_labels_are_the_tokens_that_follow():
    """ids and labels of a row are one window of the text, a byte apart."""
    batch = Sampler(Plan.of(seq=32, global_batch=4)).batch(step=0)
    assert batch.ids.shape == batch.labels.shape == (4, 32)
    assert batch.ids.dtype == batch.labels.dtype == np.int64
    for ids, labels in zip(batch.ids, batch.labels, strict=True):
        window = bytes(ids.astype(np.uint8)) + bytes(labels[-1:].astype(np.uint8))
        assert window in corpus()
        np.testing.assert_array_equal(ids[1:], labels[:-1])


def test_the_text_is_moby_dick():
    """The corpus is the book with its notice beside it."""
    assert b"Call me Ishmael" in corpus()
    assert "moby_dick.txt" in (places.assets() / "NOTICE.md").read_text()


def test_batches_depend_on_seed_and_step_alone():
    """Not on the layout, and not on the batches drawn before."""
    plan = Plan.of(seq=16, global_batch=8)
    first = Sampler(plan)
    first.batch(0)
    again = Sampler(plan.but(dp=4, microbatches=2)).batch(5)
    np.testing.assert_array_equal(first.batch(5).ids, again.ids)
    assert (first.batch(6).ids != again.ids).any()
    assert (Sampler(plan.but(seed=1)).batch(5).ids != again.ids).any()


def test_every_window_can_be_drawn():
    """A text of three windows yields the three, first and last included."""
    plan = Plan.of(seq=4, global_batch=200, vocab=256)
    drawn = Sampler(plan, text=b"abcdefg").batch(0)
    assert {bytes(row.astype(np.uint8)) for row in drawn.ids} == {b"abcd", b"bcde", b"cdef"}
    assert set(drawn.labels[:, -1]) == set(b"efg")


@pytest.mark.parametrize("vocab, highest", [(2, 1), (100, 99), (256, 255), (5000, 255)])
def test_tokens_lie_in_the_vocabulary(vocab, highest):
    """Bytes are taken modulo a small vocabulary and left alone in a large one."""
    ids = Sampler(Plan.of(seq=256, vocab=vocab), text=bytes(range(256)) * 8).batch(0).ids
    assert (ids.min(), ids.max()) == (0, highest)


def test_a_sequence_longer_than_the_text_names_the_nearest_that_works():
    """seq + 1 bytes are needed; the error's proposal runs."""
    plan = Plan.of(seq=10)
    with pytest.raises(PlanError, match=r"seq=10 must be less than .* nearest .* is 9") as error:
        Sampler(plan, text=b"ten letter")
    Sampler(plan.but(seq=error.value.nearest), text=b"ten letter").batch(0)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
def test_ranks_and_microbatches_partition_the_batch(dp, microbatches, rows):
    """Every row is handled once, whatever the layout."""
    plan = Plan.of(dp=dp, microbatches=microbatches, global_batch=dp * microbatches * rows)
    taken = [rows_of(plan, r, mb) for r in range(dp) for mb in range(microbatches)]
    assert {len(part) for part in taken} == {plan.rows_per_microbatch}
    assert sorted(np.concatenate(taken)) == list(range(plan.global_batch))


def test_folders_are_found_and_a_missing_one_is_named(tmp_path):
    """Beside the package in a checkout, inside it in a wheel, inside first."""
    checkout = tmp_path / "assets"
    package = tmp_path / "parallel_core"
    package.mkdir()
    with pytest.raises(FileNotFoundError, match="assets/"):
        places._folder("assets", package)
    checkout.mkdir()
    assert places._folder("assets", package) == checkout
    (package / "assets").mkdir()
    assert places._folder("assets", package) == package / "assets"
    assert places.assets().name == "assets"
    assert places.app().name == "app"
    assert places.lessons().name == "lessons"
