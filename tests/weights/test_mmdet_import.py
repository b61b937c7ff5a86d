"""Published weights: every layout of file yields the same detector, every misfit is named, and nothing is executed."""

import json
import os
import pickle
import re
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.settings.test_catalog import TABLES
from tests.weights.checkpoints import assert_same, changed, of_version_2, of_version_3, other_values, published
from workbench import cli
from workbench.detectors import build_detector
from workbench.runs.folders import RELEASED, Run
from workbench.runs.load import load_run
from workbench.settings.catalog import load_row, load_table
from workbench.settings.data import COCO_IDS, COCO_NAMES, CocoData
from workbench.settings.detectors import VFNet
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically
from workbench.weights.mmdet_file import STAND_INS, Inert, read_checkpoint
from workbench.weights.mmdet_import import import_checkpoint
from workbench.weights.mmdet_names import renamer


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


class Code:
    """Object that calls a function when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def with_code(call, *arguments):
    return lambda w: of_version_2(w | {"x": Code(call, *arguments)})


def without(weights, name):
    del weights[name]
    return weights


def set_first(weights, value):
    next(iter(weights.values())).flatten()[0] = value
    return weights


FIRST, BIAS = "backbone.conv1.weight", "bbox_head.vfnet_cls.bias"
REFUSED = {
    "a system call": (with_code(os.system, "touch executed"), "contains posix.system, which is not part of a checkpoint"),
    "eval": (with_code(eval, "open('executed', 'w')"), "contains eval"),
    "a folder made": (with_code(os.mkdir, "executed"), "posix.mkdir"),
    "a function got by name": (with_code(getattr, torch.Tensor, "tofile"), "'x' is a getattr"),
    "code next to the weights": (lambda w: {**of_version_2(w), "meta": Code(os.mkdir, "executed")}, "posix.mkdir"),
    "an object of a class": (lambda w: {**of_version_2(w), "more": Path("x")}, "pathlib"),
    "a list": (lambda w: [1, 2], "contains a list, not weights"),
    "no weights": (lambda w: of_version_2({}), "contains no weights (it has no tensor)"),
    "a list as a weight": (lambda w: of_version_2({FIRST: [1.0]}), f"'{FIRST}' is a list"),
    "one missing": (lambda w: of_version_2(without(w, FIRST)), "(1 missing (1 backbone): backbone.net.conv1.weight); choose another file, or a run of the detector that it belongs to"),
    "a level missing": (lambda w: of_version_2(without(w, "bbox_head.scales.3.scale")), "(1 missing (1 head): head.scales.factors[3])"),
    "one too many": (lambda w: of_version_2(w | {"mask_head.x": torch.ones(1)}), "(1 unexpected (1 other): mask_head.x)"),
    "a sixth level": (lambda w: of_version_2(w | {"bbox_head.scales.5.scale": torch.tensor(1.0)}), "(1 unexpected (1 head): bbox_head.scales.5.scale)"),
    "a level without a number": (lambda w: of_version_2(w | {"bbox_head.scales.scale": torch.tensor(1.0)}), "(1 unexpected (1 head): bbox_head.scales.scale)"),
    "another bias": (lambda w: of_version_2(w | {"bbox_head.vfnet_reg.bias": torch.ones(20)}), "(1 different (1 head): shape: bbox_head.vfnet_reg.bias is [20], not [4])"),
    "not finite": (lambda w: of_version_2(set_first(w, torch.nan)), f"not finite: {FIRST}"),
    "whole numbers": (lambda w: of_version_2(w | {BIAS: torch.ones(80, dtype=torch.int64)}), f"kind: {BIAS} is torch.int64, not torch.float32"),
    "sparse": (lambda w: of_version_2(w | {BIAS: torch.ones(80).to_sparse()}), f"'{BIAS}' is a Tensor"),
    "a duplicate": (lambda w: of_version_2(w | {f"module.neck.lateral_convs.0.{p}": w[f"neck.lateral_convs.0.conv.{p}"] for p in ("weight", "bias")}), "duplicate: neck.lateral_convs.0.weight and neck.lateral_convs.0.conv.weight"),
    "its own names": (lambda w: of_version_2({"head.cls_out.weight": torch.ones(1)}), "126 missing (85 backbone, 16 neck, 25 head): backbone.net.conv1.weight, backbone.net.bn1.weight, "),
    "no classes": (lambda w: w, "does not name its classes; name the data set that it was trained on with --data-root"),
    "other names": (lambda w: of_version_2(w, ("person", "car") * 40), "has other classes than COCO; name the data set"),
    "fewer names": (lambda w: of_version_2(w, ("person",)), "names 1 classes, but its weights have 80"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, monkeypatch, run, weights, case):
    monkeypatch.chdir(tmp_path)
    make, expected = REFUSED[case]
    torch.save(make(weights), "bad.pth")
    with pytest.raises(WorkbenchError) as error:
        import_checkpoint(Path("bad.pth"), run.training(RELEASED), None, print)
    assert str(error.value).startswith("bad.pth: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert not run.training(RELEASED).folder.exists()
    assert not Path("executed").exists()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_an_incomplete_file_is_refused(tmp_path, run, weights, share, new_format):
    file = tmp_path / "whole.pth"
    torch.save(of_version_2(weights), file, _use_new_zipfile_serialization=new_format)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(WorkbenchError, match=r"whole.pth: not a complete checkpoint of PyTorch .*download it again"):
        import_checkpoint(file, run.training(RELEASED), None, print)


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, run):
    (tmp_path / "text.pth").write_text("see https://example.org for the weights\n" * 9)
    with pytest.raises(WorkbenchError, match=r"text.pth: not a complete checkpoint of PyTorch"):
        import_checkpoint(tmp_path / "text.pth", run.training(RELEASED), None, print)
    for name in ("", "nowhere.pth"):
        with pytest.raises(WorkbenchError, match="no such file"):
            import_checkpoint(tmp_path / name, run.training(RELEASED), None, print)
    with pytest.raises(WorkbenchError, match=r"experiment.json"):
        import_checkpoint(tmp_path / "text.pth", Run(tmp_path).training(RELEASED), None, print)


OTHER_MODELS = {  # row and changes of its backbone → part of the differences from the full VFNet with ResNet-50
    "another depth": ("t4_vfnet_r101_480_960", {}, " backbone): backbone.layer3.1."),
    "another width": ("t3_full_vfl", {"channels": (8, 16, 24, 32)}, ": shape: backbone.layer1.0.conv1.weight is [8, "),
    "other kinds of blocks": ("t4_vfnet_r2_101_480_960", {}, " backbone): backbone.net.conv1.weight, backbone.net.layer1.0.conv2.weight, "),
    "deformable": ("t4_vfnet_r50_dcn_480_960", {}, "unexpected (6 backbone, 4 head): backbone.layer2.0.conv2.conv_offset.weight, "),
    "no refinement": ("t3_raw_vfl", {}, "(5 missing (5 head): head.cls_star.weight, head.box_star.weight, "),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_weights_of_another_model_are_refused(tmp_path, run, case):
    row, backbone, first = OTHER_MODELS[case]
    other = load_row(f"table{row[1]}", row).experiment
    other = other.model_copy(
        update={"data": CocoData(classes=80), "backbone": other.backbone.model_copy(update=backbone)}
    )
    torch.save(of_version_3(published(build_detector(other))), tmp_path / "other.pth")
    message = r"other.pth: not weights of vfnet-varifocal-resnet50-[0-9a-f]+ \("
    with pytest.raises(WorkbenchError, match=message) as error:
        import_checkpoint(tmp_path / "other.pth", run.training(RELEASED), None, print)
    assert first in str(error.value)
    assert not run.training(RELEASED).folder.exists()


def test_weights_of_a_classifier_are_refused(tmp_path, run, detector):
    """ImageNet weights of the backbone in place of the detector's weights."""
    state = {name: tensor.clone() for name, tensor in detector.backbone.net.state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(10, 4)}, tmp_path / "resnet50.pth")
    with pytest.raises(
        WorkbenchError,
        match=r"resnet50.pth: not weights of vfnet-varifocal-resnet50-[0-9a-f]+ \(\d+ missing \(.*: backbone.net.conv1.weight",
    ):
        import_checkpoint(tmp_path / "resnet50.pth", run.training(RELEASED), None, print)


def test_all_differences_are_one_line_with_the_first_names_and_counts_by_part(tmp_path, run, detector, weights):
    for name in [name for name in weights if name.startswith("backbone.layer")]:
        del weights[name]
    del weights["neck.lateral_convs.1.conv.bias"]
    weights |= {"a.b": torch.ones(1), "bbox_head.vfnet_reg.bias": torch.ones(3)}
    torch.save(of_version_2(weights), tmp_path / "bad.pth")
    lines = []
    with pytest.raises(WorkbenchError) as error:
        import_checkpoint(tmp_path / "bad.pth", run.training(RELEASED), None, lines.append)
    assert lines == []
    layers = sum("layer" in name and "tracked" not in name for name in detector.state_dict())
    assert re.search(
        rf"\({layers + 1} missing \({layers} backbone, 1 neck\): backbone\.net\.layer1\.0\.conv1\.weight, "
        r"backbone\.net\.layer1\.\S+, backbone\.net\.layer1\.\S+, …; 1 unexpected \(1 other\): a\.b; "
        r"1 different \(1 head\): shape: bbox_head\.vfnet_reg\.bias is \[3\], not \[4\]\); choose another file",
        str(error.value),
    )


# The command, and the use of the imported weights.


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


def test_a_data_set_with_another_number_of_classes_is_refused(run, weights, tiny_data, tmp_path):
    torch.save(weights, tmp_path / "bare.pth")
    with pytest.raises(WorkbenchError, match=r"data: \d+ categories, but the weights have 80"):
        import_checkpoint(tmp_path / "bare.pth", run.training(RELEASED), tiny_data, print)


# Names of tensors, and COCO's categories.


@pytest.mark.parametrize("table", TABLES)
def test_common_names_have_a_place_in_every_row(table):
    for row in load_table(table, "coco")[1]:
        place = renamer(row.experiment)
        assert place("backbone.layer1.0.conv1.weight") == "backbone.net.layer1.0.conv1.weight"
        assert place("bbox_head.cls_convs.0.conv.weight") == "head.cls_tower.0.0.weight"
        assert place("mask_head.x") is None


def test_names_of_the_neck_of_vfnet_x(experiment):
    """The names follow MMDetection's PAFPN; laterals have no norm, outputs are deformable."""
    update = {"detector": VFNet(neck="pafpn"), "backbone": experiment.backbone.model_copy(update={"dcn": True})}
    vfnet_x = experiment.model_copy(update=update)
    blocks = [*(f"fpn_convs.{i}" for i in range(5)), "downsample_convs.0", "downsample_convs.1"]
    blocks += [f"pafpn_convs.{i}" for i in range(3)]
    names = [f"lateral_convs.{i}.conv.{part}" for i in range(3) for part in ("weight", "bias")]
    names += [f"{block}.{part}" for block in blocks for part in ("conv.weight", "gn.weight", "gn.bias")]
    names += [f"pafpn_convs.{i}.conv.conv_offset.{part}" for i in range(3) for part in ("weight", "bias")]
    place = renamer(vfnet_x)
    with torch.device("meta"):
        ours = {name for name in build_detector(vfnet_x).state_dict() if name.startswith("neck.")}
    assert sorted(place(f"neck.{name}") for name in names) == sorted(ours)
    assert place("neck.fpn_convs.2.conv.weight") == "neck.inner.2.0.weight"
    assert place("neck.fpn_convs.3.gn.bias") == "neck.extra.0.1.bias"
    assert place("bbox_head.cls_convs.1.conv.conv_offset.bias") == "head.cls_tower.1.0.predictor.bias"
    assert place("backbone.layer2.0.conv2.conv_offset.bias") == "backbone.net.layer2.0.conv2.predictor.bias"


def test_coco_has_80_categories_with_gaps_in_their_ids():
    assert len(set(COCO_NAMES)) == len(set(COCO_IDS)) == 80
    ids = dict(zip(COCO_NAMES, COCO_IDS, strict=True))
    assert (ids["person"], ids["stop sign"], ids["backpack"], ids["toilet"], ids["toothbrush"]) == (1, 13, 27, 70, 90)
