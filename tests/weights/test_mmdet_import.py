"""Published weights: every layout of file yields the same detector, which is detected with and evaluated."""

import json
import pickle
import re
import sys
import types
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from PIL import Image

from tests.weights.checkpoints import assert_same, changed, of_version_2, of_version_3, other_values, published
from workbench import cli
from workbench.detectors import build_detector
from workbench.runs.folders import RELEASED
from workbench.runs.load import load_run
from workbench.settings.catalog import load_row
from workbench.settings.data import COCO_IDS, COCO_NAMES
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically
from workbench.weights.mmdet_file import STAND_INS, Inert, read_checkpoint
from workbench.weights.mmdet_import import import_checkpoint


@pytest.fixture
def mmengine(monkeypatch):
    """Class with the name of MMEngine's history, pickled in the same way: with NumPy arrays and its own methods."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history, self._count_history = np.arange(3.0), np.float64(2)
            self._statistics_methods = {"mean": HistoryBuffer.mean}
            self._set_default_statistics = defaultdict(list, {"a": [1]})

        def mean(self):
            raise AssertionError("executed")

    name = "mmengine.logging.history_buffer"
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = name, "HistoryBuffer.mean"
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[name].HistoryBuffer = HistoryBuffer
    return HistoryBuffer


LAYOUTS = {
    "version 2": of_version_2,
    "version 3": of_version_3,
    "a list of classes": lambda w: of_version_2(w, list(COCO_NAMES)),
    "of several processes": lambda w: of_version_2(changed(w, lambda n: f"module.{n}")),
    "no counters": lambda w: of_version_2(OrderedDict((n, t) for n, t in w.items() if not n.endswith("tracked"))),
    "blocks without .conv": lambda w: of_version_2(changed(w, lambda n: re.sub(r"(?<!dconv)\.conv\.", ".", n))),
    "averages next to the weights": lambda w: {
        **of_version_3(w),
        "ema_state_dict": {"steps": torch.tensor(3), **changed(other_values(w), lambda n: f"module.{n}")},
    },
    "averages only": lambda w: {
        "ema_state_dict": {"steps": torch.tensor(3), **changed(w, lambda n: f"module.{n}")},
        "meta": of_version_3(w)["meta"],
    },
    "averages of weights alone": lambda w: {"swa_state_dict": w, "meta": of_version_2(w)["meta"]},
    "averages among the weights": lambda w: of_version_2(
        w | changed(other_values(w), lambda n: f"ema_{n.replace('.', '_')}")
    ),
    "averages instead of the weights": lambda w: of_version_2(
        changed(w, lambda n: f"swa_model.module.{n}") | {"n_averaged": torch.tensor(18)}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_every_layout_gives_the_same_detector(tmp_path, run, detector, weights, layout, new_format):
    file = tmp_path / "published.pth"
    torch.save(LAYOUTS[layout](weights), file, _use_new_zipfile_serialization=new_format)
    lines = []
    target = import_checkpoint(file, run.training(RELEASED), None, lines.append)
    assert target == run.training(RELEASED).weights
    loaded = assert_same(run, detector)
    assert loaded.category_ids == COCO_IDS
    assert loaded.class_names == COCO_NAMES
    assert f"tensors of {file.name}" in lines[-1]
    tensors = len(weights)
    notes = {
        "of several processes": f"module.: removed from the names of {tensors} tensors",
        "averages next to the weights": "ema_state_dict: left out, state_dict is used",
        "averages only": "ema_state_dict: used, the file has no plain weights",
        "averages of weights alone": "swa_state_dict: used, the file has no plain weights",
        "averages among the weights": f"{len(weights)} averaged tensors: left out, the plain weights are used",
        "averages instead of the weights": "averaged weights: used, the file has no plain weights",
    }
    removed = [f"module.: removed from the names of {tensors} tensors"] if layout == "averages only" else []
    assert lines[:-1] == ([notes[layout]] if layout in notes else []) + removed
    facts = json.loads(run.training(RELEASED).facts.read_text())
    assert (facts["seed"], facts["file"], len(facts["sha256"])) == ("released", "published.pth", 64)
    assert facts["code_digest"]


def test_half_precision_is_converted(tmp_path, run, detector, weights):
    half = OrderedDict((n, t.half() if t.is_floating_point() else t) for n, t in weights.items())
    torch.save(of_version_2(half), tmp_path / "half.pth")
    lines = []
    import_checkpoint(tmp_path / "half.pth", run.training(RELEASED), None, lines.append)
    assert_same(run, detector, half=True)
    count = sum(t.is_floating_point() for t in weights.values())
    assert lines[0] == f"{count} tensors of half precision: converted to single"


def test_constants_of_gfl_are_left_out(tmp_path, run, detector, weights):
    torch.save(of_version_2(weights | {"bbox_head.integral.project": torch.arange(17.0)}), tmp_path / "x.pth")
    lines = []
    import_checkpoint(tmp_path / "x.pth", run.training(RELEASED), None, lines.append)
    assert lines[0] == "bbox_head.integral.project: left out, not a weight"


def test_objects_that_mmengine_saves_are_accepted_and_inert(tmp_path, run, detector, weights, mmengine):
    content = of_version_3(weights, mmengine())
    torch.save(content, tmp_path / "full.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "full.pth", weights_only=True)
    before = set(torch.serialization.get_safe_globals())  # their order varies
    import_checkpoint(tmp_path / "full.pth", run.training(RELEASED), None, print)
    assert_same(run, detector)
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals(STAND_INS):
        read = torch.load(tmp_path / "full.pth", weights_only=True)
    history = read["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, Inert)
    assert not vars(history)
    assert isinstance(read["message_hub"]["runtime_info"]["max_iters"], Inert)
    facts = read_checkpoint(tmp_path / "full.pth").facts
    assert facts == {"mmengine_version": "0.10.7", "epoch": 12}


@pytest.fixture
def small(tmp_path, new_run):
    """Folder of a run, checkpoint without names of classes, and detector, all for the classes of the drawn data set."""
    row = load_row("table3", "t3_full_vfl")
    run = new_run(row.experiment)
    write_json_atomically(tmp_path / "quick.json", row.variant.model_dump(mode="json") | {"limit_images": 3})
    torch.manual_seed(0)
    detector = build_detector(row.experiment)
    torch.save(published(detector), tmp_path / "bare.pth")
    return run, tmp_path / "bare.pth", detector


def workbench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
    cli.main()


def test_imported_weights_are_detected_with_and_evaluated(small, tiny_data, tmp_path, monkeypatch, capsys):
    run, file, detector = small
    workbench(monkeypatch, "import-checkpoint", file, "--run", run.folder, "--data-root", tiny_data)
    assert f"tensors of bare.pth -> {run.training(RELEASED).weights}" in capsys.readouterr().err
    loaded = assert_same(run, detector)
    assert len(loaded.class_names) == len(loaded.category_ids) == loaded.experiment.data.classes
    variant = tmp_path / "quick.json"
    for command in ("detect", "evaluate"):
        more = ("--workers", 0) if command == "detect" else ()
        workbench(
            monkeypatch,
            command,
            "--run",
            run.folder,
            "--variant",
            variant,
            "--data-root",
            tiny_data,
            "--seed",
            "released",
            *more,
        )
    assert f"{run.name} released: AP" in capsys.readouterr().out
    metrics = json.loads(next(run.training(RELEASED).folder.glob("*/metrics.json")).read_text())
    assert metrics["images"] == 3
    assert metrics["provenance"]["training"]["file"] == "bare.pth"
    (run.training(RELEASED).weights).write_bytes(b"x")
    with pytest.raises(WorkbenchError, match=r"released/model.safetensors: .* delete the file and import them again"):
        load_run(run.folder, "released")


def test_mistakes_on_the_command_line_end_in_one_line(small, tiny_data, monkeypatch, tmp_path):
    run, file, detector = small
    with pytest.raises(SystemExit, match="does not name its classes; name the data set"):
        workbench(monkeypatch, "import-checkpoint", file, "--run", run.folder)
    classes = detector.head.cls_out.out_channels
    torch.save(of_version_2(published(detector), tuple(f"class {i}" for i in range(classes))), file)
    with pytest.raises(SystemExit, match=r"class 0 is 'class 0', but .* in .*; name the data set of its training"):
        workbench(monkeypatch, "import-checkpoint", file, "--run", run.folder, "--data-root", tiny_data)
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(picture)
    with pytest.raises(SystemExit, match="import the published weights first"):
        workbench(monkeypatch, "predict", picture, "--run", run.folder, "--seed", "released")
    with pytest.raises(SystemExit) as status:
        workbench(monkeypatch, "predict", picture, "--run", run.folder, "--seed", "-1")
    assert status.value.code == 2
    assert not run.training(RELEASED).folder.exists()
