"""Claims about the lessons: the notebooks are built from their sources, exercises are provable."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from parallel_core.cli.lesson_command import _choose, lessons

LESSONS = Path(__file__).parent.parent / "lessons"
_spec = importlib.util.spec_from_file_location("lessons_build", LESSONS / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


@pytest.mark.parametrize("source", build.sources(), ids=lambda path: path.stem)
def test_the_notebook_is_the_built_source(source):
    """The .ipynb holds exactly the cells of its .py; python lessons/build.py mends it."""
    assert not build.drifted(source)


@pytest.mark.parametrize("source", build.sources(), ids=lambda path: path.stem)
def test_a_lesson_has_its_size_and_an_exercise(source):
    """12 to 20 cells; one check that is unsolved, one solution, guesses that are not asserted."""
    cells = build.read(source).cells
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", ())]
    assert 12 <= len(cells) <= 20
    assert build.UNSOLVED in tags and build.SOLUTION in tags
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert any("my_guess" in text for text in code)
    assert not any("assert my_guess" in text for text in code)


def test_a_number_names_one_lesson():
    """13 is lesson 13 though there is a 13b, and both are listed, 13 first."""
    every = lessons()
    numbers = [one.name.split("_")[0] for one in every]
    assert len(set(numbers)) == len(numbers)
    assert [_choose(number, every).name for number in numbers] == [one.name for one in every]
    assert numbers.index("13") + 1 == numbers.index("13b")


def test_a_changed_source_is_noticed(tmp_path):
    """One changed number in the source is drift; so is a notebook that is not there."""
    source = shutil.copy(build.sources()[0], tmp_path / "01_copy.py")
    assert build.drifted(source)
    shutil.copy(build.sources()[0].with_suffix(".ipynb"), source.with_suffix(".ipynb"))
    assert not build.drifted(source)
    source.write_text(source.read_text().replace("my_guess_gb = 30", "my_guess_gb = 31"))
    assert build.drifted(source)


def test_a_solution_must_pass_the_very_check_that_failed(tmp_path):
    """A check that was softened after the solution does not build."""
    source = tmp_path / "01_soft.py"
    cell = '# %% tags=["{}"]\n{}\n\n'
    hard, soft = "assert f() == 1", "assert f()"
    for again, fine in ((hard, True), (soft, False)):
        source.write_text(
            cell.format("raises-exception", hard)
            + cell.format("solution", "def f():\n    return 1")
            + f"# %%\n{again}\n"
        )
        if fine:
            assert len(build.read(source).cells) == 3
        else:
            with pytest.raises(ValueError, match="must stand again, unchanged"):
                build.read(source)
