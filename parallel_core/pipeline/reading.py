"""Orders as people and programs write them down: text, CSV and JSON, told apart by their look.

    text    F0 F1 B0 B1                    a line a rank; 2F0 where a rank has several stages
    csv     0F0,0F1,,0B0,0B1               torch.distributed.pipelining's; an empty cell is idle
    json    {"name": "mine", "ranks": [["F0", "F1", "B0", "B1"], ...]}

In all three a cell is a task (order.py), or torch's `(0F0;3B1)OVERLAP_F_B`: both of them, in that
order. A cell that names no stage means the rank's own number. `#` starts a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from parallel_core.pipeline.order import Order, Task, printable
from parallel_core.program import ProgramError

_TOGETHER = re.compile(r"\(([^()]*)\)OVERLAP_F_B")
_CELL = re.compile(r"\([^()]*\)\w*|[^\s\"]+")
_LABEL = re.compile(r"\s*rank\s*([0-9]{1,6})(?:\s*[:,]|\s+|$)")
_MESSAGE = re.compile(r"[0-9]*(?:(?:SEND|RECV)_[FB]|UNSHARD|RESHARD|REDUCE_GRAD)[0-9]*")


class Form(StrEnum):
    """How an order can be written down."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"


def read_file(path: Path) -> Order:
    """The order in a file, named after it; as `read`, and OSError where it cannot be opened."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ProgramError(f"{path} is no text: write a line of tasks for each rank") from None
    return read(text, path.stem)


def read(text: str, name: str = "") -> Order:
    """The order in `text`, whichever Form it has. Raises ProgramError naming line and cell.

    >>> read("0F0,0F1,,0B0,0B1").ranks == read("F0 F1 B0 B1").ranks
    True
    """
    if form_of(text) is Form.JSON:
        return _from_json(text, name)
    ranks: list[tuple[Task, ...]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        body = line.split("#")[0]
        if body.strip():
            label = _LABEL.match(body)
            if label and int(label[1]) != len(ranks):
                raise ProgramError(
                    f"line {number} says rank {label[1]} where rank {len(ranks)} is next: write"
                    " the ranks in order, from 0"
                )
            body = body[label.end() :] if label else body
            ranks.append(tuple(_line(body, number, len(ranks))))
    while ranks and not ranks[-1]:  # what a spreadsheet leaves under a table
        ranks.pop()
    return Order(tuple(ranks), name)


def form_of(text: str) -> Form:
    """The Form that `text` looks like."""
    if text.lstrip()[:1] in ("{", "["):
        return Form.JSON
    lines = [line.split("#")[0] for line in text.splitlines()]
    return Form.CSV if any("," in line for line in lines) else Form.TEXT


def write(order: Order, form: Form = Form.TEXT) -> str:
    """`order` in a Form that `read` takes back; CSV names every stage, as torch wants it."""
    match form:
        case Form.TEXT:
            return str(order)
        case Form.CSV:
            return "".join(",".join(map(str, tasks)) + "\n" for tasks in order.ranks)
        case Form.JSON:
            ranks = [order.cells(rank) for rank in range(order.p)]
            return json.dumps({"name": order.name, "ranks": ranks}) + "\n"


def _line(body: str, number: int, rank: int) -> Iterator[Task]:
    """The tasks of a line; between commas may stand several, or none."""
    columns = body.split(",") if "," in body else _CELL.findall(body)
    for column, content in enumerate(columns, start=1):
        for cell in _CELL.findall(content):
            yield from _tasks(cell, rank, f"line {number}, cell {column}")


def _tasks(cell: str, rank: int, where: str) -> Iterator[Task]:
    together = _TOGETHER.fullmatch(cell)
    for one in together[1].split(";") if together else (cell,):
        if _MESSAGE.fullmatch(one.strip()):
            raise ProgramError(
                f"{where}: '{printable(one)}' is communication, which every order is given by"
                " itself: leave out what is no F, B, I or W"
            )
        try:
            yield Task.parse(one.strip(), rank)
        except ProgramError as error:
            raise ProgramError(f"{where}: {error}") from None


def _from_json(text: str, name: str) -> Order:
    """`ranks` (or `order`, as `shardlab schedule --json` prints it): a list of cells a rank."""
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProgramError(
            f"line {error.lineno}, column {error.colno}: this is no JSON ({error.msg}); write"
            ' {"ranks": [["F0", "B0"]]}'
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        raise ProgramError('the JSON is no order: write {"ranks": [["F0", "B0"]]}') from None
    ranks = data
    if isinstance(data, dict):
        ranks = data.get("ranks", data.get("order"))
        said = data.get("name")
        name = said if isinstance(said, str) and said else name
    if not isinstance(ranks, list):
        raise ProgramError('the JSON has no "ranks": write {"ranks": [["F0", "B0"]]}')
    return Order(tuple(tuple(_json_rank(rank, cells)) for rank, cells in enumerate(ranks)), name)


def _json_rank(rank: int, cells: object) -> Iterator[Task]:
    if not isinstance(cells, list):
        raise ProgramError(f'rank {rank} of the JSON is no list of cells: write ["F0", "B0"]')
    for column, cell in enumerate(cells, start=1):
        where = f"rank {rank}, cell {column}"
        if cell is None or cell == "":  # idle
            continue
        if not isinstance(cell, str):
            raise ProgramError(f'{where} is no string: write it as "F0"')
        yield from _tasks(cell.strip(), rank, where)
