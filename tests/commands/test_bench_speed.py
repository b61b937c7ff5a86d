"""Speed of single images: medians with a simulated clock, files with the real clock."""

import csv
import html
import re
import time
from dataclasses import replace

import multimark
import pytest
import torch
from safetensors.torch import save_file

from tests.report.odd_text import ODD_TEXTS
from workbench import cli
from workbench.commands.bench import speed, timing
from workbench.detectors import DenseDetector, Detector, build_detector
from workbench.report.text import plain
from workbench.runs.find import data_folder
from workbench.settings.catalog import load_row, load_table
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

CPU = torch.device("cpu")
FULL = load_row("table3", "t3_full_vfl")
LABELS = ["model", "VFL", "star dconv", "bbox refinement"]
COLUMNS = [
    "row",
    *LABELS,
    *(
        "image_size",
        "images",
        "weights",
        "load_ms",
        "forward_ms",
        "postprocess_ms",
        "images_per_second",
        "FPS_published",
    ),
]


def read(folder):
    (path,) = (folder / "mini" / "speed").iterdir()
    with path.open(newline="") as file:
        return path.name, list(csv.DictReader(file))


def test_medians_are_without_the_warm_up(monkeypatch):
    """Only work advances the simulated clock; the first images take long and are not counted."""
    clock, done = [0.0], []

    class Dense(DenseDetector):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def predict(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            done.append(images)
            clock[0] += (9.0 if len(done) <= timing.WARM_UP else 0.030) + len(done) / 1e6

    def postprocess(*_):
        clock[0] += 9.0 if len(done) <= timing.WARM_UP else 0.020 - len(done) / 1e6

    def batches(data, size):
        for _ in data.images:
            clock[0] += 0.005
            yield load_batch()

    def load_batch():
        return next(timing._noise(FULL.variant, 1))

    class Data:
        images = (1, 2, 3, 4, 5)

    monkeypatch.setattr(timing, "postprocess", postprocess)
    monkeypatch.setattr(timing, "evaluation_batches", batches)
    monkeypatch.setattr(timing, "replace", lambda data, images: type("Part", (), {"images": images}))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    result = timing.time_detector(Dense(), FULL.variant, Data, 5, CPU)
    assert len(done) == 8
    assert result.images == 5
    assert (result.load, result.forward, result.postprocess) == pytest.approx((5, 30.006, 19.994))
    assert result.images_per_second == pytest.approx(20)  # 50 ms
    assert timing.time_detector(Dense(), FULL.variant, None, 4, CPU).load is None


def test_a_detector_that_is_not_dense_is_timed_as_a_whole():
    """Its forward pass and its post-processing cannot be told apart."""

    class Slow(Detector):
        def detect(self, images, sizes, variant=None):
            time.sleep(0.01)
            return []

    result = timing.time_detector(Slow(), FULL.variant, None, 3, torch.device("cpu"))
    assert result.forward >= 10 > 1 > result.postprocess
    assert result.images_per_second < 100


def test_the_clock_is_read_after_the_gpu_has_finished(monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "synchronize", devices.append)
    assert timing.now(torch.device("cuda")) > 0
    assert devices == [torch.device("cuda")]
    timing.now(CPU)
    assert len(devices) == 1


def test_noise_images_are_resized_like_real_images():
    batch = next(timing._noise(load_row("table3", "t3_full_vfl", "coco").variant, 1)).to("cpu")
    assert batch.sizes.tolist() == [[800, 1067]]  # of 480x640 in 1333x800
    assert batch.images.shape == (1, 3, 800, 1088)
    assert batch.images[..., :1067].std() > 0.5


def test_untrained_rows_are_timed_on_noise_with_random_weights(tmp_path):
    text = speed.bench_speed("table3", ["t3_full_vfl", "t3_fcos_atss"], "mini", None, 2, tmp_path)
    name, lines = read(tmp_path)
    assert re.fullmatch(r"table3-[A-Za-z0-9._]+-torch[0-9.]+[a-z0-9.+]*\.csv", name)
    assert list(lines[0]) == COLUMNS
    assert [line["row"] for line in lines] == ["t3_full_vfl", "t3_fcos_atss"]
    for line in lines:
        assert (line["image_size"], line["images"], line["weights"], line["load_ms"]) == (
            str(FULL.experiment.image),
            "2",
            "random",
            "-",
        )
        both = float(line["forward_ms"]) + float(line["postprocess_ms"])
        assert float(line["images_per_second"]) == pytest.approx(
            1000 / both, rel=0.05
        )  # the median of two values is their mean
    assert "noise of 640x480 pixels" in text
    assert "With random weights few scores" in text
    assert "`" not in text.splitlines()[4]
    before = lines[0]

    speed.bench_speed("table3", ["t3_raw_vfl"], "mini", None, 1, tmp_path)
    _, lines = read(tmp_path)
    assert [line["row"] for line in lines] == ["t3_raw_vfl", "t3_full_vfl", "t3_fcos_atss"]
    assert lines[1] == before


def test_trained_rows_are_timed_on_images_of_the_data_set(tmp_path, tiny_data, monkeypatch):
    world = data_folder("mini", tmp_path)
    world.parent.mkdir()
    world.symlink_to(tiny_data)
    run = tmp_path / "mini" / "runs" / FULL.run
    write_json_atomically(run / "experiment.json", FULL.experiment.model_dump(mode="json"))
    torch.manual_seed(5)
    weights = build_detector(FULL.experiment).state_dict()
    for training in ("released", "seed10", "seed3"):
        categories = FULL.experiment.data.categories
        facts = {"category_ids": [c.id for c in categories], "class_names": [c.name for c in categories]}
        write_json_atomically(run / training / "train.json", facts)
        (run / training / "train.csv").touch()
        save_file({k: v + (training == "seed3") for k, v in weights.items()}, run / training / "model.safetensors")
    detectors = []
    time_detector = timing.time_detector
    monkeypatch.setattr(
        speed, "time_detector", lambda *arguments: detectors.append(arguments[0]) or time_detector(*arguments)
    )
    text = speed.bench_speed("table3", ["t3_full_vfl"], "mini", None, 20, tmp_path)
    _, (line,) = read(tmp_path)
    assert (line["images"], line["weights"]) == ("6", "seed3")
    assert float(line["load_ms"]) > 0
    assert "random" not in text
    assert torch.equal(detectors[0].state_dict()["head.cls_out.bias"], weights["head.cls_out.bias"] + 1)
    for training in ("seed10", "seed3"):
        (run / training / "model.safetensors").unlink()
    speed.bench_speed("table3", ["t3_full_vfl"], "mini", None, 1, tmp_path)
    assert read(tmp_path)[1][0]["weights"] == "released"


def test_rows_with_the_same_run_are_timed_once(tmp_path, monkeypatch):
    calls = []
    spec, rows = load_table("table3", "mini")
    twins = [rows[3], replace(rows[3], id="t3_raw_fl")]
    monkeypatch.setattr(speed, "load_table", lambda *_: (spec, twins))
    timed = timing.Timing(1, None, 90.0, 10.0, 100.0)
    monkeypatch.setattr(speed, "time_detector", lambda *arguments: calls.append(arguments) or timed)
    speed.bench_speed("table3", [], "mini", None, 1, tmp_path)
    assert len(calls) == 1
    lines = read(tmp_path)[1]
    assert [line["row"] for line in lines] == ["t3_raw_fl", "t3_full_vfl"]
    assert {line["images_per_second"] for line in lines} == {"10.0"}


def test_the_published_speed_is_a_column(tmp_path, monkeypatch):
    timed = timing.Timing(20, 1.0, 150.0, 50.0, 200.0)
    monkeypatch.setattr(speed, "time_detector", lambda *_: timed)
    rows = ["t4_vfnetx_1200", "t4_vfnet_r50_480_960"]
    speed.bench_speed("table4", rows, "mini", None, 20, tmp_path)
    lines = {line["row"]: line for line in read(tmp_path)[1]}
    assert list(lines) == rows[::-1]
    assert [lines[row]["FPS_published"] for row in rows] == ["4.2", "19.3"]
    assert [lines[row]["image_size"] for row in rows] == [str(load_row("table4", row).variant.image) for row in rows]
    assert len({line["image_size"] for line in lines.values()}) == 2
    assert lines[rows[0]]["images_per_second"] == "5.00"


def test_oracles_are_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "time_detector", lambda *_: timing.Timing(20, 1.0, 150.0, 50.0, 200.0))
    speed.bench_speed("table1", [], "mini", None, 20, tmp_path)
    assert [line["row"] for line in read(tmp_path)[1]] == ["t1_base_noctr", "t1_base_ctr"]


@pytest.mark.parametrize("device", ["Intel(R) Xeon(R) CPU @ 2.20GHz, 1 thread(s)", "../über GPU/\n|", "x" * 300])
def test_file_names_are_safe(monkeypatch, device):
    monkeypatch.setattr(speed, "device_name", lambda: device)
    monkeypatch.setattr(speed, "fastest_back_end", lambda _: "mmcv")
    monkeypatch.setattr(speed, "import_module", lambda _: type("mmcv", (), {"__version__": "2.1.0"}))
    name = speed.machine(CPU)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]*-torch[0-9.]+[a-z0-9.+]*-mmcv2\.1\.0", name)
    assert len(name) < 130


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["table4", "--row", "t4_r_fcn_r_101"], "experiments/vfnet/table4.yaml: t4_r_fcn_r_101 is from the literature"),
        (
            ["table1", "--row", "t1_gt_ctr"],
            "experiments/vfnet/table1.yaml: t1_gt_ctr is an oracle, not a detector; remove it",
        ),
        (
            ["table3", "--row", "t3_full"],
            "experiments/vfnet/table3.yaml: unknown row 't3_full'; did you mean 't3_full_vfl'?",
        ),
        (["table33"], "unknown table 'table33'"),
        (["table3", "--scale", "mini", "--data-root", "x"], "scale mini draws its own data set"),
        (["table3", "--data-root", "x"], "x: no such data folder; choose the folder of a data set"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, tmp_path, arguments, expected):
    monkeypatch.setattr("sys.argv", ["workbench", "bench", "speed", *arguments, "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert expected in caught.value.code
    assert "\n" not in caught.value.code
    assert not list(tmp_path.iterdir())


def test_a_label_may_not_hide_a_column(monkeypatch, tmp_path):
    spec, rows = load_table("table3", "mini")
    clash = spec.rows["t3_raw_fl"].model_copy(update={"labels": {"weights": "heavy"}})
    named = spec.model_copy(update={"rows": spec.rows | {"t3_raw_fl": clash}})
    monkeypatch.setattr(speed, "load_table", lambda *_: (named, rows))
    with pytest.raises(WorkbenchError, match="weights is the name of a column; rename the label"):
        speed.bench_speed("table3", [], "mini", None, 1, tmp_path)


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_odd_labels_are_shown_and_are_no_formulas(tmp_path, text):
    line = {"row": "a", "name": text, f"x{text}": "-0.3", "weights": "random"}
    for _ in range(2):  # the second time the file exists
        speed.write_csv(tmp_path / "speed.csv", [line], ["a"])
    with (tmp_path / "speed.csv").open(encoding="utf-8", newline="") as file:
        header, cells = csv.reader(file)
    assert not [cell for cell in (*header, *cells) if re.match(r"\s*[=+@＝\t]|\s*-(?![\d.]+$|$)", cell)]
    assert cells[2] == "-0.3"
    page = multimark.markdown_to_html(
        speed._markdown(text, [line], ["name"], CPU, False), unsafe=True, extensions=["table"]
    )
    texts = [" ".join(html.unescape(cell).split()) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", page)]
    assert texts == ["a", plain(text, 60), "-0.3", "random"]
