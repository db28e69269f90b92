"""Claims about rooflines: the formula, the devices, the measurement and its figures."""

import json
from itertools import pairwise

import pytest
import torch

from parallel_core import roofline_live
from parallel_core.hardware.devices import DEVICES, a100_ladder
from parallel_core.hardware.moves import moves
from parallel_core.hardware.roofline import (
    attainable,
    attention,
    data_parallel_step,
    decode,
    elementwise,
    matmul,
    ridge,
    tensor_parallel_mlp,
)
from parallel_core.heartbeat import INDEX, Board
from parallel_core.matmul_share import OpClock, by_part
from parallel_core.rank import Rank
from parallel_core.trace import Kind
from parallel_core.views import roofline as roofline_view
from parallel_core.views import walls as walls_view

H100 = DEVICES["H100 SXM"]


def test_the_h100s_ridge():
    """989 TFLOP/s over 3.35 TB/s: 295 FLOP per byte."""
    assert round(H100.ridge()) == 295
    assert ridge(H100.flops("bfloat16"), H100.bandwidth) == H100.ridge()


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_devices_are_complete_and_slower_outwards(device):
    """Each device has its sources, and each link is slower than its memory."""
    assert device.source and device.memory > 0
    assert all(rate < device.bandwidth for rate in device.links.values())
    assert device.links.get("PCIe", 0) <= 64e9  # a direction; twice that is the duplex figure
    assert device.half in ("bfloat16", "float16") and device.ridge() > 50
    if "float32" in device.peak:
        assert device.peak["float32"] < device.flops(device.half)
    with pytest.raises(ValueError, match=f"no published peak in 'int3'; it has {device.half}"):
        device.ridge("int3")


def test_devices_go_from_the_v100_to_the_gb200_and_to_tpus():
    """A V100 multiplies float16 alone: 125 TFLOP/s over 0.9 TB/s; six NVLinks of 25 GB/s."""
    assert {"V100 SXM2", "A100-80 SXM", "H100 SXM", "GB200 per GPU", "TPU v4"} < set(DEVICES)
    v100 = DEVICES["V100 SXM2"]
    assert round(v100.ridge()) == 139 and v100.links["scale-up"] == 150e9
    with pytest.raises(ValueError, match="no published peak in 'bfloat16'; it has float16"):
        v100.flops("bfloat16")


def test_the_a100s_ladder():
    """Shared 19 and 23, L1 33, L2 200, global 290 cycles; 192 KB, 40 MB, 80 GB."""
    levels = a100_ladder()
    assert [level.cycles for level in levels] == [19, 23, 33, 200, 290]
    sizes = {level.name: level.size for level in levels}
    assert (sizes["L1"], sizes["L2"], sizes["global"]) == (192 << 10, 40 << 20, 80 * 10**9)


def test_the_roof_bends_at_the_ridge():
    """Left of the ridge bandwidth x intensity, right of it the peak, the same at the ridge."""
    peak, bandwidth = 100.0, 10.0
    assert [attainable(i, peak, bandwidth) for i in (1, 10, 20)] == [10, 100, 100]


@pytest.mark.parametrize(
    "kernel",
    [matmul(64, 96, 32), decode(8, 1e9), attention(512, 64, flash=True),
     elementwise(3, 100, fused=False)],
    ids=lambda kernel: kernel.name,
)  # fmt: skip
def test_a_kernel_runs_at_its_roof(kernel):
    """Its least time and the roof at its intensity say the same."""
    peak, bandwidth = 1e12, 1e10
    rate = kernel.flops / kernel.seconds(peak, bandwidth)
    assert rate == pytest.approx(attainable(kernel.intensity, peak, bandwidth))


def test_decode_leaves_the_memory_roof_at_a_batch_of_the_ridge():
    """bf16 weights: intensity = batch, so 295 on an H100; a KV cache keeps it from there."""
    assert decode(295, 8e9).intensity == pytest.approx(295)
    assert decode(294, 8e9).intensity < H100.ridge() < decode(296, 8e9).intensity
    cached = [decode(batch, 8e9, cached_bytes=1e9).intensity for batch in (1, 64, 4096)]
    assert cached == sorted(cached) and cached[-1] < 2 * 8e9 / 1e9


def test_a_matmul_moves_each_operand_once():
    """8x8x8 in float32: 1,024 FLOP over three 256-byte matrices."""
    kernel = matmul(8, 8, 8, element=4)
    assert (kernel.flops, kernel.moved) == (1024, 768)


def test_the_communication_roof():
    """Tensor parallelism's intensity knows no batch, data parallelism's grows with the tokens."""
    small, large = (tensor_parallel_mlp(tokens, 8192, 28672, 8) for tokens in (8, 8192))
    assert small.intensity == pytest.approx(large.intensity) == pytest.approx(2 * 28672 / 7 / 2)
    link = {kind: H100.flops("bfloat16") / rate for kind, rate in H100.links.items()}
    assert link["scale-up"] < large.intensity < link["PCIe"]  # inside the node yes, over PCIe no
    few, many = (data_parallel_step(tokens, 8e9, 8).intensity for tokens in (1024, 2048))
    assert many == pytest.approx(2 * few) == pytest.approx(3 * 2048 * 8 / 7 / 2)
    with pytest.raises(ValueError, match="ranks=1 send nothing"):
        data_parallel_step(1, 1e9, 1)


def test_every_move_goes_where_it_says():
    """All but recomputation raise the intensity; recomputation only adds work."""
    for move in moves():
        if move.name == "recomputation":
            assert move.after.intensity == move.before.intensity
            assert move.after.flops > move.before.flops
        else:
            assert move.after.intensity > move.before.intensity


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """One short measurement of this machine: what was emitted, what was returned, the last beat."""
    events, board = [], Board(1)
    folder = tmp_path_factory.mktemp("run")
    rank = Rank(0, 1, dir=folder, row=board.row(0), emit=events.append)
    threads = torch.get_num_threads()
    result = roofline_live.measure(rank, seconds=2.0, widths=(64, 512))
    torch.set_num_threads(threads)
    labels = json.loads((folder / "labels-0.json").read_text())
    return events, result, board.row(0)[INDEX], labels


def test_measured_points_lie_under_the_measured_roofs(live):
    """No matmul beats the roofs measured beside it (30 % for a machine that changes its speed)."""
    _, result, _, _ = live
    for point in result["points"]:
        roof = attainable(point["intensity"], result["peak"], result["bandwidth"])
        assert point["flops"] <= 1.3 * roof, point


def test_intensity_rises_and_pays(live):
    """Each batch has more FLOP per byte than the last, and the largest is the fastest by far."""
    points = live[1]["points"]
    assert all(a["intensity"] < b["intensity"] for a, b in pairwise(points))
    assert points[-1]["flops"] > 2 * points[0]["flops"]
    assert points[0]["intensity"] < live[1]["ridge"] < points[-1]["intensity"]


def test_matmuls_share_grows_with_the_width(live):
    """A wider model spends more of its step in matmuls; every second is in one of three parts."""
    narrow, wide = (row["seconds"] for row in live[1]["shares"])
    assert set(narrow) == {"matmul", "attention", "rest"} and min(wide.values()) > 0
    assert wide["matmul"] / sum(wide.values()) > narrow["matmul"] / sum(narrow.values())


def test_each_finding_is_told_as_it_is_made(live):
    """What was emitted is what was returned, and the last beat stands at the last label."""
    events, result, last, labels = live
    found = {kind: [e for e in events if e["found"] == kind] for kind in ("point", "share")}
    assert (found["point"], found["share"]) == (result["points"], result["shares"])
    assert last == len(events) == len(labels) - 1
    assert json.loads(json.dumps(result)) == result


def test_a_type_torch_cannot_multiply_is_refused(tmp_path):
    """A wrong dtype is a sentence, not a crash in the middle."""
    rank = Rank(0, 1, dir=tmp_path, row=Board(1).row(0), emit=print)
    with pytest.raises(ValueError, match="take float32 or bfloat16"):
        roofline_live.measure(rank, dtype="int8")


def test_the_op_clock_sees_forward_and_backward():
    """A linear's forward is one matmul and its backward two; the clock counts all of them."""
    x, w = (torch.randn(8, 8, requires_grad=True) for _ in range(2))
    with OpClock() as clock:
        (x @ w).relu().sum().backward()
    assert clock.seconds["mm"] > 0 and clock.seconds["relu"] > 0
    parts = by_part(clock.seconds)
    assert sum(parts.values()) == pytest.approx(sum(clock.seconds.values()))
    assert parts["matmul"] == clock.seconds["mm"]


@pytest.mark.live
def test_it_runs_in_a_worker(pool):
    """The measurement is a target of the pool: events come as it goes, the result at the end."""
    args = {"seconds": 0.3, "widths": [64]}
    with pool.start("parallel_core.roofline_live:measure", 1, args) as run:
        found = [event["found"] for event in run.events()]
        (result,) = run.wait()
    assert found == ["stream"] * 4 + ["peak"] + ["point"] * 9 + ["peak", "share"]
    assert result["ridge"] == result["peak"] / result["bandwidth"]


def test_findings_become_marks(live):
    """As soon as a stream and the peak are known there is a roof; each point is a solid dot."""
    events, result, _, _ = live
    assert roofline_view.of_findings(events[:4]) == ([], [])
    roofs, dots = roofline_view.of_findings(events)
    assert [roof.ridge for roof in roofs] == [result["ridge"]]
    assert [dot.flops for dot in dots] == [point["flops"] for point in result["points"]]
    assert {mark.kind for mark in (*roofs, *dots)} == {Kind.MEASURED}


ROOFS = (
    roofline_view.Roof(name="memory", peak=100.0, bandwidth=10.0),
    roofline_view.Roof(name="link", peak=100.0, bandwidth=1.0, traffic="NVLink"),
)


@pytest.mark.parametrize("dark", [False, True])
def test_the_figure_shows_where_each_mark_comes_from(dark):
    """Measured dots are solid and modelled ones hollow; the badge stands in the figure."""
    dots = (
        roofline_view.Dot("run", 1.0, 8.0, Kind.MEASURED),
        roofline_view.Dot("model", 1.0, 10.0),
    )
    figure = roofline_view.roofline(ROOFS, dots, badge="model: two roofs", dark=dark)
    assert list(figure.data[-1].marker.symbol) == ["circle", "circle-open"]
    assert [trace.line.dash for trace in figure.data[:2]] == ["dash", "dash"]
    texts = [note.text for note in figure.layout.annotations]
    assert "model: two roofs" in texts and "link: ridge 100" in texts
    words = roofline_view.describe_roofline(ROOFS, dots)
    assert "run (measured): 1 FLOP per byte, 8 FLOP/s, 80% of the memory roof." in words


@pytest.mark.parametrize("dark", [False, True])
def test_the_memory_figure_adds_up(dark):
    """The boxes of a row touch, end at its total, and the capacity line stands at the device; a
    box that the line cuts is named in its larger part."""
    rows = {
        "training": [walls_view.Slice("weights", "params", 15e9),
                     walls_view.Slice("Adam m", "optimizer", 30e9)],
        "serving": [walls_view.Slice("KV cache", "kv_cache", 5e9)],
    }  # fmt: skip
    figure = walls_view.memory_bars(rows, 40e9, device="device", dark=dark)
    boxes = [drawn for drawn in figure.data if drawn.type == "scatter"]
    assert [(box.x[0], box.x[1]) for box in boxes] == [(0, 15), (15, 45), (0, 5)]
    assert all(box.line.dash == "dash" for box in boxes)
    names = {bar.text: (bar.base[0], bar.x[0]) for bar in figure.data if bar.text}
    assert names["Adam m<br>30 GB"] == (15, 25) and names["KV cache<br>5 GB"] == (0, 5)
    assert figure.layout.shapes[0].x0 == 40
    words = walls_view.describe_memory(rows, 40e9, device="device")
    assert "training: 45 GB, 1.12 times the memory of one device" in words
    assert "serving: 5 GB, fits one device" in words


def test_quoted_latencies_are_dotted():
    """The ladder's boxes carry the edge of a quotation and end at their cycles."""
    figure = walls_view.ladder({"L1": 33, "global": 290}, badge="quoted: a paper")
    assert [box.x[1] for box in figure.data] == [33, 290]
    assert {box.line.dash for box in figure.data} == {"dot"}


def test_step_parts_are_percentages():
    """Every bar is 100 % of its step."""
    parts = {"a": {"matmul": 3.0, "attention": 1.0, "rest": 4.0}}
    figure = walls_view.step_parts(parts, badge="measured: here")
    assert [bar.x[0] for bar in figure.data] == [37.5, 12.5, 50.0]
