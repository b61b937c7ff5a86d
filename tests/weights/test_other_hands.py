"""Checkpoints of other programs: wrappers, safetensors, classes in another order, and files of MMDetection 1."""

import argparse
import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.weights.checkpoints import assert_same, changed, of_version_2, other_values, published
from workbench.detectors import build_detector
from workbench.runs.folders import RELEASED
from workbench.runs.load import load_run
from workbench.settings.catalog import load_row
from workbench.settings.data import COCO_IDS, COCO_NAMES, CocoData
from workbench.support.errors import WorkbenchError
from workbench.weights.mmdet_import import import_checkpoint


def prefixed(*wrappers):
    return lambda weights: of_version_2(changed(weights, lambda name: "".join(wrappers) + name))


def within(weights):
    return of_version_2(changed(weights, lambda name: name.replace("backbone.", "backbone._orig_mod.")))


def semi_supervised(weights):
    student = changed(other_values(weights), lambda name: f"student.{name}")
    return of_version_2(changed(weights, lambda name: f"teacher.{name}") | student)


def of_lightning(weights):
    content = {"pytorch-lightning_version": "2.5.0", "epoch": 3, "global_step": 9, "hyper_parameters": {"lr": 0.1}}
    return content | prefixed("model.")(weights)


def of_a_script(weights):
    meta = of_version_2(weights)["meta"]
    return {"model": weights, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=0.1), "meta": meta}


def named_twice(weights):
    return of_version_2(weights | changed(weights, lambda name: f"model.{name}"))


WRAPPED = {  # layout → wrappers whose removal is in the log
    "compiled": (prefixed("_orig_mod."), ["_orig_mod."]),
    "a compiled backbone": (within, ["_orig_mod."]),
    "Lightning": (of_lightning, ["model."]),
    "a teacher": (prefixed("teacher."), ["teacher."]),
    "a student alone": (prefixed("student."), ["student."]),
    "several": (prefixed("_orig_mod.", "module.", "model."), ["_orig_mod.", "module.", "model."]),
    "a script": (of_a_script, []),
    "equal tensors under two names": (named_twice, ["model."]),
}


@pytest.mark.parametrize("layout", WRAPPED)
def test_wrappers_of_other_programs_are_removed(tmp_path, run, detector, weights, layout):
    make, wrappers = WRAPPED[layout]
    torch.save(make(weights), tmp_path / "theirs.pth")
    lines = []
    import_checkpoint(tmp_path / "theirs.pth", run.training(RELEASED), None, lines.append)
    assert_same(run, detector)
    assert [line.partition(": ")[0] for line in lines[:-1]] == wrappers
    assert all(re.fullmatch(r"\S+: removed from the names of \d+ tensors", line) for line in lines[:-1])


def test_the_teacher_of_a_semi_supervised_training_is_taken(tmp_path, run, detector, weights):
    torch.save(semi_supervised(weights), tmp_path / "semi.pth")
    lines = []
    import_checkpoint(tmp_path / "semi.pth", run.training(RELEASED), None, lines.append)
    assert_same(run, detector)
    assert f"{len(weights)} tensors of student.: left out, the weights of teacher. are used" in lines


@pytest.fixture
def coco(tmp_path):
    """Function that writes a data set whose categories have names, and ids from 1 on, in an order."""

    def make(*names):
        root = tmp_path / "-".join(names)[:20]
        (root / "annotations").mkdir(parents=True)
        (root / "val2017").mkdir()
        Image.new("RGB", (64, 48)).save(root / "val2017" / "1.jpg")
        categories = [{"id": id_, "name": name} for id_, name in enumerate(names, 1)]
        images = [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}]
        content = {"images": images, "annotations": [], "categories": categories}
        (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
        return root

    return make


def test_safetensors_are_read(tmp_path, run, detector, weights, coco):
    save_file(changed(weights, lambda name: f"model.{name}"), tmp_path / "theirs.safetensors")
    import_checkpoint(tmp_path / "theirs.safetensors", run.training(RELEASED), coco(*COCO_NAMES), print)
    assert load_run(run.folder, RELEASED).class_names == COCO_NAMES
    assert_same(run, detector)


# Classes.


NAMES = ("RBC", "WBC", "Platelets")


@pytest.fixture(params=["vfnet", "retinanet"])
def cells(request, new_run):
    """Run of three classes, its detector, and the weights; RetinaNet has several anchors per location."""
    experiment = load_row("table5", f"t5_{request.param}_vfl").experiment
    update = {"data": CocoData(classes=3), "backbone": experiment.backbone.model_copy(update={"pretrained": False})}
    experiment = experiment.model_copy(update=update)
    torch.manual_seed(0)
    detector = build_detector(experiment).eval()
    torch.nn.init.normal_(detector.head.cls_out.weight)
    return new_run(experiment), detector, theirs(detector, request.param)


def theirs(detector, family):
    """Weights under MMDetection's names; the names of RetinaNet's outputs differ."""
    start = {"vfnet": "vfnet_", "retinanet": "retina_"}[family]
    return changed(published(detector), lambda name: re.sub(r"vfnet_(cls|reg)\.", rf"{start}\1.", name))


def logits(detector):
    with torch.no_grad():
        return detector.predict(torch.linspace(-1, 1, 3 * 64 * 96).view(1, 3, 64, 96)).logits


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
def test_classes_in_another_order_are_ordered_by_name(tmp_path, cells, coco, order):
    """The predictions for a name are the same in the file and here."""
    run, detector, weights = cells
    stated = tuple(NAMES[i] for i in order)
    torch.save(of_version_2(weights, stated), tmp_path / "cells.pth")
    lines = []
    import_checkpoint(tmp_path / "cells.pth", run.training(RELEASED), coco(*NAMES), lines.append)
    loaded = load_run(run.folder, RELEASED)
    assert (loaded.category_ids, loaded.class_names) == ((1, 2, 3), NAMES)
    here, there = logits(loaded.detector), logits(detector)
    for k, name in enumerate(NAMES):
        torch.testing.assert_close(here[..., k], there[..., stated.index(name)], rtol=0, atol=1e-4)
        assert (here[..., k] - here[..., k - 1]).abs().max() > 0.1
    assert any(line.startswith("classes ordered by name: class ") for line in lines)


def test_cocos_classes_in_another_order_are_ordered_by_name(tmp_path, run, detector, weights):
    torch.save(of_version_2(weights, sorted(COCO_NAMES)), tmp_path / "sorted.pth")
    import_checkpoint(tmp_path / "sorted.pth", run.training(RELEASED), None, print)
    loaded = load_run(run.folder, RELEASED)
    assert (loaded.category_ids, loaded.class_names) == (COCO_IDS, COCO_NAMES)
    order = [sorted(COCO_NAMES).index(name) for name in COCO_NAMES]
    assert torch.equal(loaded.detector.head.cls_out.bias, detector.head.cls_out.bias[order])


def test_a_head_of_three_classes_with_cocos_names(tmp_path, cells, coco):
    """The names are of a default that somebody forgot to change; the data set that is named has the classes."""
    run, detector, weights = cells
    file = tmp_path / "cells.pth"
    torch.save(of_version_2(weights), file)
    with pytest.raises(WorkbenchError) as error:
        import_checkpoint(file, run.training(RELEASED), None, print)
    assert str(error.value) == (
        f"{file}: names 80 classes, but its weights have 3; name the data set that it was trained on with --data-root"
    )
    lines = []
    import_checkpoint(file, run.training(RELEASED), coco(*NAMES), lines.append)
    loaded = load_run(run.folder, RELEASED)
    assert loaded.class_names == NAMES
    assert torch.equal(logits(loaded.detector), logits(detector))
    assert any("names 80 classes, but its weights have 3: its names are not used" in line for line in lines)
    assert any("in the order of their ids (RBC, WBC, Platelets)" in line for line in lines)


REFUSED_NAMES = {
    "other names": (("a", "b", "c"), NAMES, "class 0 is 'a', but 'RBC' in"),
    "one other name": (("WBC", "RBC", "Other"), NAMES, "class 0 is 'WBC', but 'RBC' in"),
    "equal names": (("x", "y", "x"), ("x", "x", "y"), "class 1 is 'y', but 'x' in"),
}


@pytest.mark.parametrize("case", REFUSED_NAMES)
def test_names_that_leave_a_doubt_are_refused(tmp_path, cells, coco, case):
    run, _, weights = cells
    stated, own, message = REFUSED_NAMES[case]
    torch.save(of_version_2(weights, stated), tmp_path / "cells.pth")
    with pytest.raises(WorkbenchError, match=f"{message} .*; name the data set of its training"):
        import_checkpoint(tmp_path / "cells.pth", run.training(RELEASED), coco(*own), print)
    assert not run.training(RELEASED).folder.exists()


def test_another_number_of_classes_names_the_way_round(tmp_path, new_run, cells):
    """A head of three classes for a run of 80, and a head of 80 for a run of three."""
    three, _, of_three = cells
    family = three.read_experiment().detector.family
    eighty = three.read_experiment().model_copy(update={"data": CocoData(classes=80)})
    torch.save(of_version_2(of_three), tmp_path / "cells.pth")
    torch.save(of_version_2(theirs(build_detector(eighty), family)), tmp_path / "coco.pth")
    for file, run, there, here in (("cells", new_run(eighty), 3, 80), ("coco", three, 80, 3)):
        with pytest.raises(WorkbenchError) as error:
            import_checkpoint(tmp_path / f"{file}.pth", run.training(RELEASED), None, print)
        assert str(error.value) == (
            f"{tmp_path / file}.pth: its weights have {there} classes, but {run.name} has {here}; name a row at a "
            f"scale with data.classes: {there}, or choose another file"
        )


# Generations, and files that are refused.


def version(text):
    return lambda w: of_version_2(w) | {"meta": {"mmdet_version": text, "CLASSES": COCO_NAMES}}


def two_tensors(weights):
    return of_version_2(weights | changed(other_values(weights), lambda name: f"model.{name}"))


REFUSED = {
    "MMDetection 1": (version("1.1.0+d1a2b3c"), "weights of MMDetection 1.1.0+d1a2b3c, whose reference points are (stride - 1) / 2 pixels from the points here"),
    "before MMDetection 1": (version("0.6.0"), "weights of MMDetection 0.6.0, whose reference points"),
    "two tensors of one name": (two_tensors, "two different tensors have the name backbone.conv1.weight without their wrappers"),
    "a whole model": (lambda w: {"model": torch.nn.Linear(1, 1)}, "contains torch.nn.modules.linear.Linear, which is not part of a checkpoint"),
    "settings as the model": (lambda w: {"model": {"type": "VFNet"}}, "contains no weights ('type' is a str)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused_in_one_line(tmp_path, run, weights, case):
    make, message = REFUSED[case]
    torch.save(make(weights), tmp_path / "bad.pth")
    with pytest.raises(WorkbenchError) as error:
        import_checkpoint(tmp_path / "bad.pth", run.training(RELEASED), None, print)
    assert str(error.value).startswith(f"{tmp_path / 'bad.pth'}: {message}")
    assert "\n" not in str(error.value)
    assert not run.training(RELEASED).folder.exists()


@pytest.mark.parametrize("length", [0, 5, 1000])
def test_incomplete_safetensors_are_refused(tmp_path, run, weights, length):
    file = tmp_path / "bad.safetensors"
    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(WorkbenchError, match=r"bad.safetensors: not a complete safetensors file \(.+\); download it"):
        import_checkpoint(file, run.training(RELEASED), None, print)


def test_a_file_that_states_no_version_is_reported(tmp_path, cells, coco):
    """MMDetection 1 has the same names of tensors, so such a file would lose AP without an error."""
    run, _, weights = cells
    save_file(weights, tmp_path / "cells.safetensors")
    lines = []
    import_checkpoint(tmp_path / "cells.safetensors", run.training(RELEASED), coco(*NAMES), lines.append)
    noted = any(line.startswith("version of MMDetection: not stated, taken as 2 or 3; ") for line in lines)
    assert noted == ("retinanet" in run.name)


def test_raw_vfnet_has_names_of_its_own(tmp_path, new_run):
    """Names of the authors' code and of MMDetection's FCOS are the same network."""
    raw = load_row("table3", "t3_raw_vfl").experiment.model_copy(update={"data": CocoData(classes=80)})
    detector, run = build_detector(raw), new_run(raw)
    rules = {"head.cls_conv.0.": "bbox_head.vfnet_cls_conv.conv.", "head.cls_conv.1.": "bbox_head.vfnet_cls_conv.gn."}
    weights = published(detector)
    for ours, theirs_ in rules.items():
        weights = changed(weights, lambda name, old=ours, new=theirs_: name.replace(old, new))
    assert "bbox_head.vfnet_cls_conv.gn.weight" in weights
    assert "bbox_head.vfnet_reg_conv.conv.weight" in weights
    torch.save(of_version_2(weights), tmp_path / "raw.pth")
    import_checkpoint(tmp_path / "raw.pth", run.training(RELEASED), None, print)
    assert_same(run, detector)
