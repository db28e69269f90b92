"""Options made from the fields' own declarations: one place for a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any, TypeVar

import click

from parallel_core.plan import flat_fields

Command = TypeVar("Command", bound=Callable[..., Any])


def plan_options(command: Command) -> Command:
    """Add one option a field of the plan (`global_batch` is --global-batch)."""
    return field_options(command, flat_fields())


def field_options(command: Command, specs: Mapping[str, Field[Any]]) -> Command:
    """Add one option a field, in their order; values arrive as typed text.

    Parsing is left to the fields (fields.py), so that a wrong word and a wrong number give the
    same kind of sentence. A field that was not given is absent, and keeps its default.
    """
    for name, spec in reversed(list(specs.items())):
        flag = "--" + name.replace("_", "-")
        meta = spec.metadata
        if meta["kind"] is bool:
            option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=meta["help"])
        else:
            default = f"  [default: {spec.default}]" if spec.default is not None else ""
            kind = meta["kind"].__name__.upper()
            metavar = "|".join(meta["choices"]) if "choices" in meta else kind
            option = click.option(
                flag, name, default=None, metavar=metavar, help=meta["help"] + default
            )
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were really given."""
    return {name: value for name, value in options.items() if value is not None}
