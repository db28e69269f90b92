"""Whatever is typed into a field gives a plan, or one sentence that leads to one."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from parallel_core import machine
from parallel_core.cli import main, run_command
from parallel_core.fields import PlanError
from parallel_core.plan import Plan, flat_fields
from parallel_core.request import Request

FIELDS = dict(flat_fields())
STEPS = next(f for f in Request.__dataclass_fields__.values() if f.name == "steps")
NONSENSE = [
    None, "", " ", "x", "4x", "nan", "inf", "-inf", "1e999", "0x10", "0", "-1", "2.5", "١٢", "🦈",
    "a\nb", "\udc80", "' OR 1=1", "true", math.nan, math.inf, -math.inf, -1, 0, 2.5, 1e300,
    10**30, 10**5000, True, b"8", [8], {"dp": 8}, (1, 2), object(), "9" * 10_000, "\x00",
]  # fmt: skip

quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def _plausible(name: str) -> st.SearchStrategy[Any]:
    """Values of the field's own type: at home, small, at the ends of the range and just beyond."""
    meta = FIELDS[name].metadata
    if "choices" in meta:
        return st.sampled_from([*map(str, meta["choices"]), "LLAMA", "fp32", ""])
    if meta["kind"] is bool:
        return st.booleans()
    if meta["kind"] is str:
        return st.sampled_from(["2,2", "1,2,1", "F0 B0\nF0 B0", "0F0 1F0 1B0 0B0\n", "F0", "no"])
    low, high = meta["low"], meta["high"]
    if meta["kind"] is float:
        return st.floats(low, high) | st.sampled_from([low, high, high * 2, -1.0])
    ends = st.sampled_from([low, high, low - 1, high + 1])
    return st.integers(low, min(high, low + 64)) | st.integers(low, high) | ends


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.lists(st.integers(), max_size=3)
    | st.sampled_from(NONSENSE)
)
plausible = st.fixed_dictionaries({}, optional={name: _plausible(name) for name in FIELDS})
wild = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, anything))


def _one_sentence(error: PlanError) -> None:
    """The sentence names field, value, rule and the nearest value, in one line of bearable size."""
    text = str(error)
    assert text.startswith(f"{error.field}="), text
    assert text.endswith(f"; the nearest value that works is {error.nearest}"), text
    assert error.rule and error.rule in text
    assert text.isprintable() and len(text) < 300, text


def _led_to_a_plan(flat: dict[str, Any]) -> Plan:
    """Take the advice of one error after another until the plan is legal."""
    for _ in range(2 * len(FIELDS)):
        try:
            return Plan.of(**flat)
        except PlanError as error:
            _one_sentence(error)
            assert error.field in FIELDS
            flat = {**flat, error.field: error.nearest}
    raise AssertionError(f"the advice leads nowhere: {flat}")


@quick
@given(plausible)
@example({"dp": 4096, "microbatches": 4096})
@example({"pp": 32, "schedule": "interleaved", "virtual_stages": 33})
@example({"hidden": 32767, "heads": 255, "kv_heads": 254, "dialect": "llama"})
@example({"dialect": "gpt", "hidden": 2, "heads": 256, "kv_heads": 3})
@example({"dp": 4033, "pp": 10, "microbatches": 255, "schedule": "interleaved"})
def test_any_numbers_lead_to_a_legal_plan(flat):
    """Right types, any values: a plan, or errors whose advice ends in a plan."""
    plan = _led_to_a_plan(flat)
    assert Plan.of(**plan.flat()) == plan
    assert json.loads(json.dumps(plan.flat())) == plan.flat()
    assert plan.rows_per_microbatch * plan.dp * plan.microbatches == plan.global_batch
    assert plan.model.head_dim * plan.model.heads == plan.model.hidden


@quick
@given(wild)
@example({"pp": 2, "order": True})
@example({"pp": 2, "order": " "})
@example({"pp": 2, "order": "\x1b"})
def test_any_nonsense_leads_to_a_legal_plan(flat):
    """Any values of any type: a plan, or errors whose advice ends in a plan."""
    _led_to_a_plan(flat)


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_refuses_each_nonsense_in_one_sentence(name):
    """Every field meets every nonsense; what it accepts is of its own type and in its range."""
    meta = FIELDS[name].metadata
    for value in NONSENSE:
        try:
            got = Plan.of(**{name: value}).flat()[name]
        except PlanError as error:
            _one_sentence(error)
            continue
        if got is None:
            assert FIELDS[name].default is None
        elif "choices" in meta:
            assert got in meta["choices"]
        else:
            assert type(got) is meta["kind"]
            assert meta["kind"] in (bool, str) or meta["low"] <= got <= meta["high"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("schedule", "zb-h1"), ("virtual_stages", 2), ("stage_layers", "2,2"), ("cap", 4)],
)
def test_what_is_of_a_pipeline_is_refused_without_one(name, value):
    """A forgotten --pp must not end in a run that ignores the schedule."""
    with pytest.raises(PlanError, match=f"{name}=.* needs stages, pp of 2 or more") as caught:
        Plan.of(**{name: value})
    assert Plan.of(**{name: caught.value.nearest}) == Plan.of()


def test_the_number_that_works_is_the_nearest():
    """Ends of a range, rounding, divisors and multiples: the advice is the closest there is."""
    for flat, field, nearest in [
        ({"dp": 0}, "dp", 1),
        ({"dp": "5000"}, "dp", 4096),
        ({"layers": 2.4}, "layers", 2),
        ({"dp": 3}, "global_batch", 15),
        ({"hidden": 96, "heads": 7}, "heads", 6),
        ({"heads": 8, "kv_heads": 3}, "kv_heads", 2),
        ({"heads": 8, "kv_heads": 7}, "kv_heads", 8),
        ({"dialect": "gpt", "kv_heads": 2}, "kv_heads", 4),
        ({"dropout": 0.1}, "dropout", 0.0),
        ({"dtype": "float16"}, "dtype", "bfloat16"),
        ({"dialect": "LLaMA"}, "dialect", "llama"),
        ({"dp": 4096, "microbatches": 300, "global_batch": 4096}, "microbatches", 256),
    ]:
        with pytest.raises(PlanError) as caught:
            Plan.of(**flat)
        assert (caught.value.field, caught.value.nearest) == (field, nearest), str(caught.value)


@quick
@given(plausible)
def test_typed_text_means_what_the_number_means(flat):
    """The command line and a URL hand over text: the same plan, or the same sentence."""
    typed = {name: str(value) for name, value in flat.items()}
    outcomes = []
    for given_ in (flat, typed):
        try:
            outcomes.append(Plan.of(**given_))
        except PlanError as error:
            outcomes.append((error.field, error.rule, error.nearest))
    assert outcomes[0] == outcomes[1]


@given(st.text(min_size=1, max_size=60).filter(lambda name: name not in FIELDS))
def test_a_field_that_does_not_exist_is_answered_with_one_that_does(name):
    """A misspelt field gets the closest one."""
    with pytest.raises(PlanError) as caught:
        Plan.of(**{name: 1})
    assert caught.value.nearest in FIELDS
    assert str(caught.value).isprintable()


def _typed_at_the_terminal(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `shardlab run`; a plan that is legal is not really run."""
    out, err = io.StringIO(), io.StringIO()
    stop = mock.patch.object(run_command, "follow", side_effect=RuntimeError("would run"))
    argv = mock.patch.object(sys, "argv", ["shardlab", "run", *arguments])
    said = contextlib.ExitStack()
    said.enter_context(contextlib.redirect_stdout(out))
    said.enter_context(contextlib.redirect_stderr(err))
    with stop, argv, said, pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


typed_fields = sorted(name for name in FIELDS if FIELDS[name].metadata["kind"] is not bool)
typed_values = st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)


@quick
@given(st.dictionaries(st.sampled_from([*typed_fields, "steps"]), typed_values, max_size=4))
@example({"dp": "3"})
@example({"dp": "512", "global_batch": "512"})
@example({"steps": "nan"})
@example({"hidden": "32768", "layers": "256", "seq": "1048576"})
@example({"dialect": "\udc80"})
def test_a_bad_plan_exits_with_2_and_one_line(flat):
    """`shardlab run` with anything typed: exit code 2, stdout empty, one line on stderr."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flat.items()]
    # what is free changes from moment to moment, and both sides print it
    free = SimpleNamespace(available=2**34)
    with mock.patch.object(machine.psutil, "virtual_memory", lambda: free):
        code, out, err = _typed_at_the_terminal(*arguments, "--no-parity")
        assert out == ""
        assert err.count("\n") == 1 and err.endswith("\n")
        try:
            Request.of(**flat).checked()
        except ValueError as error:
            assert (code, err) == (2, f"shardlab: {error}\n")
        else:
            assert (code, err) == (1, "shardlab: would run\n")


@pytest.mark.parametrize("wrong", [["--dpp", "2"], ["--dp"], ["extra"], ["--json=1"]])
def test_a_misspelt_command_line_exits_with_2_and_one_line(wrong):
    """Unknown options, missing values, extra words: one line on stderr."""
    code, out, err = _typed_at_the_terminal(*wrong)
    assert code == 2 and out == ""
    assert err.startswith("shardlab") and err.count("\n") == 1


@given(dp=st.integers(1, 4096), rows=st.integers(1, 8), m=st.integers(1, 4))
def test_more_ranks_than_the_machine_bears_are_answered_with_what_it_bears(dp, rows, m):
    """The advised number of ranks is legal, borne, and no borne one is closer."""
    plan = Plan.of(dp=dp, microbatches=m, global_batch=dp * m * rows)
    if dp <= machine.most_ranks():
        machine.check_bears(plan, free=2**50)
        return
    with pytest.raises(PlanError) as caught:
        machine.check_bears(plan, free=2**50)
    best = caught.value.nearest
    _one_sentence(caught.value)
    machine.check_bears(plan.but(dp=best), free=2**50)
    for closer in range(best + 1, machine.most_ranks() + 1):
        with pytest.raises(PlanError):
            plan.but(dp=closer)


big = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.integers(1, 48),
        "hidden": st.sampled_from([64, 256, 1024, 4096, 12288]),
        "vocab": st.sampled_from([256, 50_257, 262_144]),
        "seq": st.sampled_from([1, 128, 8192, 1_048_576]),
        "global_batch": st.sampled_from([16, 4096, 1_048_576]),
        "dp": st.sampled_from([1, 2, 4, 8, 16]),
        "microbatches": st.sampled_from([1, 2]),
        "ffn": st.sampled_from([16, 131_072]),
        "dialect": st.sampled_from(["gpt", "llama"]),
        "dtype": st.sampled_from(["float32", "float64", "bfloat16"]),
    },
)


@settings(quick, max_examples=50)
@given(big, st.integers(256, 2**16))
@example({"dp": 16, "global_batch": 1_048_576, "seq": 1_048_576, "hidden": 12288}, 256)
def test_a_plan_too_large_for_memory_is_led_to_one_that_fits(flat, free_mib):
    """One field that can shrink far enough is advised, and then fits; else the advice goes on."""
    free, plan = free_mib * 2**20, _led_to_a_plan(flat)
    for _ in range(len(machine.SHRINKS) + 2):
        try:
            machine.check_bears(plan, free=free)
        except PlanError as error:
            _one_sentence(error)
            plan = plan.but(**{error.field: error.nearest})
            if "other fields must shrink" not in error.rule:
                machine.check_bears(plan, free=free)
        else:
            assert machine.needed_bytes(plan) <= free
            return
    raise AssertionError(f"the advice leads nowhere: {plan}")


def test_no_memory_at_all_is_said_plainly():
    """Where not even one process of the smallest model fits, the remedy is another one."""
    smallest = Plan.of(layers=1, hidden=2, heads=1, global_batch=1, seq=1, vocab=2, ffn=1)
    with pytest.raises(ValueError, match="end other programs and try again"):
        machine.check_bears(smallest, free=2**20)
