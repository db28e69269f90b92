"""Options made from the fields' own declarations: one place for a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field
from functools import partial
from typing import Any, TypeVar

import click

from parallel_core.plan import flat_fields

Command = TypeVar("Command", bound=Callable[..., Any])

LONGEST = 42
"""Characters of choices that still stand beside their flag."""


def plan_options(command: Command) -> Command:
    """Add one option a field of the plan (`global_batch` is --global-batch)."""
    return field_options(command, flat_fields())


class FieldOption(click.Option):
    """An option whose help ends with its default, which is looked up when help is asked for."""

    def __init__(self, *args: Any, usual: Callable[[], str], **more: Any) -> None:
        super().__init__(*args, **more)
        self.usual = usual

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The flag, and what it means."""
        record, usual = super().get_help_record(ctx), self.usual()
        if record is None or not usual:
            return record
        flag, meaning = record
        bare = meaning.partition("; default")[0]  # what the field says where nobody else does
        return flag, f"{bare}  [default: {usual}]"


def field_options(
    command: Command,
    specs: Mapping[str, Field[Any]],
    usual: Callable[[str], str] | None = None,
) -> Command:
    """Add one option a field, in their order; values arrive as typed text.

    Parsing is left to the fields (fields.py), so that a wrong word and a wrong number give the
    same kind of sentence. A field that was not given is absent, and keeps its default: its own, or
    what `usual` says of it.
    """
    for name, spec in reversed(list(specs.items())):
        flag = "--" + name.replace("_", "-")
        meta = spec.metadata
        own = "" if spec.default is None else str(spec.default)
        told: dict[str, Any] = {"default": None, "help": meta["help"], "cls": FieldOption}
        told["usual"] = partial(usual, name) if usual else partial(str, own)
        if meta["kind"] is bool:
            told["usual"] = partial(_on, told["usual"])
            flag = f"{flag}/--no-{flag[2:]}"
        else:
            told["metavar"], more = _kind(meta)
            told["help"] += more
        command = click.option(flag, name, **told)(command)
    return command


def _on(usual: Callable[[], str]) -> str:
    """A switch tells its default only where that is on: off is what a flag unsaid looks like."""
    return "on" if usual() == str(True) else ""


def _kind(meta: Mapping[str, Any]) -> tuple[str, str]:
    """What is typed behind a flag; a long list of words stands in the meaning, where it wraps."""
    if "choices" not in meta:
        return meta["kind"].__name__.upper(), ""
    every = "|".join(meta["choices"])
    return (every, "") if len(every) <= LONGEST else ("WORD", f": {', '.join(meta['choices'])}")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were really given."""
    return {name: value for name, value in options.items() if value is not None}
