"""Files that are not weights of the run are refused in one line that names the misfit, and nothing is executed."""

import os
import re
from pathlib import Path

import pytest
import torch

from tests.weights.checkpoints import of_version_2, of_version_3, published
from workbench.detectors import build_detector
from workbench.runs.folders import RELEASED, Run
from workbench.settings.catalog import load_row
from workbench.settings.data import CocoData
from workbench.support.errors import WorkbenchError
from workbench.weights.mmdet_import import import_checkpoint


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


def test_a_data_set_with_another_number_of_classes_is_refused(run, weights, tiny_data, tmp_path):
    torch.save(weights, tmp_path / "bare.pth")
    with pytest.raises(WorkbenchError, match=r"data: \d+ categories, but the weights have 80"):
        import_checkpoint(tmp_path / "bare.pth", run.training(RELEASED), tiny_data, print)
