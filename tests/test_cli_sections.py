"""`--help` in sections: each field where it belongs, once; nothing cut that a reader would copy."""

from __future__ import annotations

import importlib
import re

import click
import pytest
from click.testing import CliRunner

from parallel_core.cli.plan_sections import COLUMN, SECTIONS, Sectioned, examples_first
from parallel_core.plan import flat_fields

SECTIONED = [
    *[("run_command", "command"), ("memory_command", "command")],
    *[("bench_command", "recorder"), ("bench_pipeline", "bubble")],
]


@pytest.fixture(params=SECTIONED, ids=lambda where: "-".join(where))
def command(request) -> click.Command:
    """A command whose help is told by section."""
    module, name = request.param
    return getattr(importlib.import_module(f"parallel_core.cli.{module}"), name)


def _told(command: click.Command) -> str:
    return CliRunner().invoke(command, ["--help"], catch_exceptions=False).output


def test_every_field_of_a_plan_stands_in_one_section():
    """A new field is placed on purpose; `steps` is the run's, and there is no other stranger."""
    placed = [name for names in SECTIONS.values() for name in names]
    assert sorted(placed) == sorted([*flat_fields(), "steps"])


def test_every_option_is_told_once_under_its_title(command):
    """As many flags as options; each behind the title of its section and before the next."""
    told = _told(command)
    titles = re.findall(r"^(\w.*):$", told, re.MULTILINE)
    options = {p.name: p.opts[-1] for p in command.get_params(click.Context(command))}
    for title, names in command.sections(options):
        if not names:
            assert title not in titles
            continue
        under = told.partition(f"\n{title}:\n")[2]
        under = re.split(r"^\w", under, maxsplit=1, flags=re.MULTILINE)[0]
        flags = re.findall(r"^  (?:-h, )?--([a-z-]+)", under, re.MULTILINE)
        assert [f"--{flag}" for flag in flags] == [options[name] for name in names]
    assert titles[-1] == command.rest and isinstance(command, Sectioned)


def test_examples_come_before_the_rest(command):
    """Behind the first paragraph, whole, and nothing of the text is lost."""
    told, help_text = _told(command), command.help
    examples = help_text.partition("Examples:")[2].split("\n\n")[0]
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    at = [told.index(line) for line in lines]
    assert at and at == sorted(at) and at[-1] < told.index(":\n  --")
    said, first = " ".join(told.split()), " ".join(lines[0].split())
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", help_text)]
    text = [p for p in paragraphs if "Examples:" not in p]
    places = [said.index(p) for p in [text[0], first, *text[1:]]]
    assert places == sorted(places)


def test_examples_alone_and_none_at_all():
    assert examples_first("One.") == "One."
    assert (
        examples_first("One.\n\nTwo.\n\n\b\nExamples:\n  a") == "One.\n\n\b\nExamples:\n  a\n\nTwo."
    )


def test_no_word_is_cut_and_no_default_parted(command):
    """Every choice can be copied from the page; lines fit 80 columns, meanings one column."""
    told = _told(command).partition(":\n  --")[2]
    own = {p.name for p in command.params}
    words = {
        word
        for name, spec in flat_fields().items()
        if name in own
        for word in spec.metadata.get("choices", ())
    }
    assert words and all(
        re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", told) for word in words
    )
    for line in told.splitlines():
        assert "[default:" not in line or re.search(r"\[default: [^\]]", line)
        if line.startswith(" " * 3):
            assert line[COLUMN - 1] == " " != line[COLUMN] and not line[:COLUMN].strip()
            assert len(line) <= 80


def test_a_switch_that_is_on_says_so():
    """Off is what nobody asked for; --overlap-cp is on unless it is switched off."""
    said = " ".join(_told(importlib.import_module("parallel_core.cli.run_command").command).split())
    on = [name for name, spec in flat_fields().items() if spec.default is True]
    assert on == ["overlap_cp"] and said.count("[default: on]") == 1
    assert re.search(r"--overlap-cp / --no-overlap-cp [^\[]*\[default: on\]", said)
