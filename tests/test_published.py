"""Claims about the published tables: complete, sourced, and read without torch."""

import subprocess
import sys

import pytest

from parallel_core.published import names, table


@pytest.mark.parametrize("name", names())
def test_every_table_says_where_it_comes_from_and_is_a_rectangle(name):
    """A quoted number can be checked: each table has a title and a source, each row all columns."""
    read = table(name)
    assert read.title and read.source and read.rows
    columns = set(read.rows[0])
    assert all(set(row) == columns for row in read.rows) or name.startswith("megatron")


def test_the_tables_in_use_are_there():
    """Each formula of the walls has the table it is held against."""
    assert {"hardware", "gpu_memory_latency", "zero_table1", "llama3_table4"} <= set(names())


SUMS = {
    "allreduce_16gpu": {"bytes": 34_359_705_600, "busbw": 1181.52},
    "nanotron_tp_sweep": {"tokens_per_s_gpu": 48284.97, "tflops": 1239.43},
    "allreduce_b200": {"bytes": 34_359_705_600, "busbw_1node": 7107.3},
    "gpu_memory_latency": {"cycles": 565, "ns_at_1.41GHz": 400},
    "hardware": {
        "peak_16bit_dense_TF": 16954, "hbm_GB": 1858, "hbm_TBps": 60.675,
        "scaleup_GBps_per_dir": 7748, "pcie_GBps_per_dir": 502, "nic_Gbps_per_gpu": 4000,
        "measured_max_gemm_TF": 8135.8,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_no_quoted_number_has_changed(name):
    """Each column adds up to what it did when it was compared with its source, digit by digit."""
    read = table(name)
    for column, total in SUMS[name].items():
        cells = [cell for cell in read.column(column) if isinstance(cell, int | float)]
        assert sum(cells) == pytest.approx(total, rel=1e-12), column


def test_a_row_is_found_by_its_cells():
    """Cells name one row; none or several is told in a sentence."""
    hardware = table("hardware")
    assert hardware.row(device="H100 SXM")["hbm_TBps"] == 3.35
    with pytest.raises(ValueError, match="0 rows of hardware have device='H100'; name one row"):
        hardware.row(device="H100")
    with pytest.raises(ValueError, match="rows of hardware have hbm_GB=80"):
        hardware.row(hbm_GB=80)


def test_a_wrong_name_gets_the_closest_right_one():
    """A typo in a table's or a column's name is answered with what there is."""
    with pytest.raises(ValueError, match="the closest is 'zero_table1'"):
        table("zero_table")
    with pytest.raises(ValueError, match="has no column 'hbm'; it has device, "):
        table("hardware").column("hbm")
    assert table("gpu_memory_latency").column("cycles") == (290, 200, 33, 23, 19)


def test_pages_that_only_predict_load_no_torch():
    """The tables, the walls, the devices, the map and their figures import without torch."""
    modules = (
        "parallel_core.published", "parallel_core.walls.models", "parallel_core.walls.memory",
        "parallel_core.walls.compute", "parallel_core.hardware.devices",
        "parallel_core.hardware.moves", "parallel_core.taxonomy", "parallel_core.views.walls",
        "parallel_core.views.roofline",
    )  # fmt: skip
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
