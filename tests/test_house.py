"""What the documents say is true of the tree, and the tree keeps its own rules."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from parallel_core import __version__
from parallel_core.cli import COMMANDS
from parallel_core.data import METHODS
from parallel_core.plan import DPMethod
from parallel_core.trace import Kind, Trace
from parallel_core.views.film import film

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "parallel_core/DESIGN.md")
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def _run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=ENV
    )


# ---------------------------------------------------------------------------- documents


def _map() -> list[str]:
    """Every path of the map of the house, nested lines joined to their folders."""
    block = re.search(r"## The map of the house.*?```text\n(.*?)```", README, re.DOTALL)
    assert block
    folders: list[str] = []
    found = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        folders[depth:] = names[-1:]
        found += ["".join(folders[:depth]) + name for name in names]
    return found


def test_every_path_in_the_map_exists():
    """The map names only what is there, and folders as folders."""
    paths = _map()
    assert len(paths) > 40
    for path in paths:
        there = ROOT / path
        assert there.is_dir() if path.endswith("/") else there.is_file(), path


def test_no_folder_is_missing_from_the_map():
    """Every folder of the core has its line: a newcomer finds it."""
    inside = {p.parent.name for p in (ROOT / "parallel_core").glob("*/__init__.py")}
    assert {f"parallel_core/{name}/" for name in inside} <= set(_map())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_named_in_a_document_exists(document):
    """Links and file names between backticks are those of the tree."""
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    names = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|js|toml|json|svg|cff))`", text)
    tree = [str(p.relative_to(ROOT)) for folder in ("parallel_core", "app", "lessons", "assets",
            "tests") for p in (ROOT / folder).rglob("*")]  # fmt: skip
    tree += [p.name for p in ROOT.iterdir()]
    mentioned = {name for name in [*links, *names] if "NN_name" not in name} - TO_BE_WRITTEN
    for name in mentioned:
        assert any(f"/{path}".endswith(f"/{name}") for path in tree), f"{document}: {name}"


TO_BE_WRITTEN = {"parallel_core/data/by_unit.py"}
"""What the README asks the reader to write."""


def test_every_command_in_a_document_exists():
    """Each `shardlab ...` line names a command, and options that the command has."""
    lines = [
        line
        for document in DOCUMENTS
        for line in re.findall(
            r"shardlab (?:[a-z]+)(?: [^`|#\n]*)?",
            (ROOT / document)
            .read_text(encoding="utf-8")
            .replace("-m parallel_core.cli", "shardlab"),
        )
    ]
    seen = set()
    for line in lines:
        words = shlex.split(line.split("   ")[0])
        assert words[1] in COMMANDS, line
        seen.add(words[1])
        module = importlib.import_module(f"parallel_core.cli.{words[1]}_command")
        commands = [module.command, *getattr(module.command, "commands", {}).values()]
        known = {flag for c in commands for p in c.params for flag in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line
    assert seen == set(COMMANDS)


def test_ci_runs_the_readmes_test_command():
    """One command for readers and for CI, word for word."""
    command = 'pip install -e ".[test]" && pytest'
    assert f"\n{command}\n" in README
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert command in script
    installed, tested = 'pip install -q -e ".[test]"\n', "\npytest 2>&1 | tee"
    assert script.index(installed) < script.index(tested)


def test_the_version_is_said_once():
    """pyproject reads it from the package; the citation and the changelog agree."""
    assert "version" in PROJECT["project"]["dynamic"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_decisions_are_numbered_and_short():
    """DESIGN.md: 1, 2, 3 ...; at most ten lines each."""
    text = (ROOT / "parallel_core/DESIGN.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.split(".")[0] for part in parts] == [str(n + 1) for n in range(len(parts))]
    for part in parts:
        assert len([line for line in part.splitlines() if line.strip()]) <= 10, part


# ---------------------------------------------------------------------------- the picture


def test_the_moving_picture_is_the_recorded_run():
    """assets/run.svg is what film.py makes of the recorded trace, and it says where it is from."""
    trace = Trace.from_json((ROOT / "assets/recorded_dp4.json").read_text(encoding="utf-8"))
    stored = (ROOT / "assets/run.svg").read_text(encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", stored)
    step = re.search(r">step (\d+), wall clock", stored)
    assert trace.kind is Kind.RECORDED and title and step
    assert stored == film(trace, step=int(step[1]), title=title[1]) + "\n"
    assert trace.provenance.badge in stored


def test_the_moving_picture_moves_and_can_stand_still():
    """It sweeps by SMIL, without scripts; who wants less motion sees it whole."""
    stored = (ROOT / "assets/run.svg").read_text(encoding="utf-8")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(stored).iter()}
    assert "animate" in tags and "script" not in tags
    assert "prefers-reduced-motion" in stored
    assert not re.findall(r"""(?:href|src)=["']""", stored)


def test_a_step_that_is_not_there_cannot_be_filmed():
    """The error names the steps there are."""
    trace = Trace.from_json((ROOT / "assets/recorded_dp4.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"step=99 is not in the trace; it has: 0, 1"):
        film(trace, step=99)


# ---------------------------------------------------------------------------- the rules


def test_imports_run_downward_only():
    """The contracts of pyproject.toml are kept."""
    done = subprocess.run(["lint-imports"], capture_output=True, text=True, cwd=ROOT, env=ENV)
    assert done.returncode == 0, done.stdout


def test_nothing_below_the_line_loads_torch():
    """Every module that the contract names is imported, with all inside it: no torch comes in."""
    (contract,) = (
        c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["name"].startswith("No torch")
    )
    code = (
        "import importlib, pkgutil, sys\n"
        f"for name in {contract['source_modules']!r}:\n"
        "    module = importlib.import_module(name)\n"
        "    for m in pkgutil.walk_packages(getattr(module, '__path__', []), name + '.'):\n"
        "        if not m.name.endswith('__main__'):\n"
        "            importlib.import_module(m.name)\n"
        "assert 'torch' not in sys.modules, 'torch came in'\n"
        "assert 'streamlit' not in sys.modules, 'streamlit came in'\n"
    )
    done = _run("-c", code)
    assert done.returncode == 0, done.stderr


def test_every_table_agrees_with_its_words():
    """A method that a Plan may name has its program, and the other way round."""
    assert set(METHODS) == {str(word) for word in DPMethod}


def test_every_command_has_its_file():
    """The table of commands and the files of cli/ are the same list."""
    files = {
        p.stem.removesuffix("_command") for p in (ROOT / "parallel_core/cli").glob("*_command.py")
    }
    assert files == set(COMMANDS)


def test_what_is_imported_is_declared():
    """Every package that the core and the app import is a dependency, or comes with one of them."""
    declared = {re.split(r"[><=\[]", d)[0] for d in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"]
    declared |= {re.split(r"[><=\[]", d)[0] for d in extras["notebooks"]}
    with_streamlit = {"starlette", "pandas"}
    with_jupyter = {"IPython", "traitlets", "nbformat"}
    ours = {"parallel_core", *(p.stem for p in (ROOT / "app").iterdir())}
    known = declared | with_streamlit | with_jupyter | ours | PEERS | sys.stdlib_module_names
    for file in [*(ROOT / "parallel_core").rglob("*.py"), *(ROOT / "app").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in known, f"{file} imports {name}"


PEERS = {"playwright"}
"""What a bench measures with, if it is there; it is in the test extra."""


def test_only_what_installs_everywhere_is_in_the_base():
    """The base installs the app; the extras are notebooks and test, the latter with the former."""
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"notebooks", "test"}
    assert "shardlab[notebooks]" in extras["test"]
    assert "torch>=2.11,<2.14" in PROJECT["project"]["dependencies"]


# ---------------------------------------------------------------------------- the recipe


def _code_blocks(section: str) -> list[str]:
    part = README.split(f"## {section}", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    return ["\n".join(line.removeprefix("   ") for line in b.splitlines()) + "\n" for b in blocks]


@pytest.mark.live
def test_a_method_is_added_as_the_readme_says(tmp_path):
    """In a copy of the tree: the file, the line, the word; then it is proved, and runs, and is
    equal to one process. A reduction left out is named by the proof."""
    for folder in ("parallel_core", "assets"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__py*"))
    file, table, word = _code_blocks("Add a method of data parallelism in five minutes")
    (tmp_path / "parallel_core/data/by_unit.py").write_text(file)
    imported, lines = table.strip().split("\n\n")
    before = "from parallel_core.data.naive import naive\n"
    _edit(tmp_path / "parallel_core/data/__init__.py", before, f"{imported}\n{before}")
    _edit(tmp_path / "parallel_core/data/__init__.py", r"METHODS: .*?\}", lines)
    _edit(tmp_path / "parallel_core/choices.py", r'BUCKETED = "bucketed"\n', r"\g<0>    " + word)
    prove = (
        "from parallel_core.check import check; from parallel_core.prove import prove\n"
        "from parallel_core.cases import program_of; from parallel_core.plan import Plan\n"
        "program = program_of(Plan.of(dp=4, microbatches=2, dp_method='by_unit'))\n"
        "check(program); print(prove(program))"
    )
    done = _run("-c", prove, cwd=tmp_path)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr
    words = "run --dp 2 --dp-method by_unit --steps 1 --layers 2 --hidden 32 --seq 32 --json"
    done = _run("-m", "parallel_core.cli", *words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["parity"]["max_rel_error"] <= 1e-5
    assert report["ledger"]["wire"]["predicted"] == report["ledger"]["wire"]["measured"]
    forgotten = file
    for right, wrong in {
        "if mb == last:": "if mb == last and u != 1:",
        "for u in reversed(units):": "for u in (u for u in reversed(units) if u != 1):",
        "[v.gsum(u) for u in units]": "[v.grad(u, last) if u == 1 else v.gsum(u) for u in units]",
    }.items():
        assert forgotten.count(right) == 1
        forgotten = forgotten.replace(right, wrong)
    (tmp_path / "parallel_core/data/by_unit.py").write_text(forgotten)
    done = _run("-c", prove, cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(
        r"ProgramError: rank \d+.* holds the gradient of layer0 from rank", done.stderr
    )


def _edit(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text(), flags=re.DOTALL)
    assert count == 1, f"{pattern} stands {count} times in {file}"
    file.write_text(text)
