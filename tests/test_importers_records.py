"""Flight records: the rank that never came is named, and broken ones are refused."""

from __future__ import annotations

import pytest
from import_samples import DONE, MS, OPEN, SEND, record, sample, text

from parallel_core.analysis.stuck import STARTED, stuck
from parallel_core.importers.load import TraceError, load, load_many


def test_a_real_flight_record_names_the_rank_that_never_came():
    """gloo's own record of the hang in make_samples.py: rank 1 never posted number 16."""
    run = load_many(sample("flight_rank0.json", "flight_rank1.json"))
    (hang,) = stuck(run)
    assert (hang.waiting, hang.culprits, hang.op) == ((0,), (1,), "all_reduce")
    assert hang.sentence.endswith("rank 1 never posted it: look there first")
    assert max(s.bytes for s in run.spans) == 64 * 32 * 4


def test_a_flight_record_of_nccl():
    """Start from the duration, end as discovered, open messages to the record's last moment."""
    run = load("nccl_trace_rank_0.json", text(record(DONE, OPEN, SEND)))
    done, hung, send = run.by_rank[0]
    assert (done.op, done.seq, done.bytes, done.where) == ("all_gather", 1, 64, "")
    assert (done.t_post, done.t_start, done.t_done) == (0, 3 * MS, 5 * MS)
    assert (hung.where, hung.t_start, hung.t_done) == (STARTED, 7 * MS, 8 * MS)
    assert (send.peers, send.axis) == ((0, 1), None)
    assert "watchdog" in run.provenance.badge


def test_a_bundle_of_records_and_a_group_whose_ranks_are_counted_from_zero():
    """{"4": record, "5": record}; `send 0->1` of the group [4, 5] goes from rank 4 to rank 5."""
    bundle = {"4": record(DONE, SEND, ranks="[4, 5]"), "5": record(DONE, ranks="[4, 5]")}
    run = load("job.json", text(bundle))
    assert run.world_size == 6
    assert next(s for s in run.spans if s.op == "send").peers == (4, 5)
    (hang,) = stuck(run)
    assert (hang.waiting, hang.culprits) == ((4,), (5,))


def test_without_a_rank_in_its_name_a_record_is_drawn_as_rank_0_and_says_so():
    assert "tells no rank" in load("dump.json", text(record(DONE))).provenance.badge
    with pytest.raises(TraceError, match="name the files after their ranks"):
        load_many([("a.json", text(record(DONE)))] * 2)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (DONE | {"profiling_name": 3}, "entry 0: profiling_name must be a string, not 3"),
        (DONE | {"time_created_ns": "now"}, "time_created_ns must be a whole number"),
        (DONE | {"input_sizes": [["x"]]}, "input_sizes must be a whole number of at least 0"),
        (DONE | {"input_sizes": [[2**40, 2**40]]}, "larger than any memory"),
        (DONE | {"process_group": "0"}, "process_group must be a list"),
    ],
)
def test_a_broken_record_is_refused_by_entry_and_field(entry, said):
    with pytest.raises(TraceError, match=said):
        load("rank_0.json", text(record(entry)))


# Refusals ---------------------------------------------------------------------------------------
