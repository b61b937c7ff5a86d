"""A training starts from a trained detector: all tensors but the classifier's, and its rows of the shared classes."""

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from tests.weights.checkpoints import changed, of_version_2, of_version_3, published
from workbench.detectors import build_detector
from workbench.settings.catalog import load_row
from workbench.settings.data import COCO_NAMES, CocoData
from workbench.support.errors import WorkbenchError
from workbench.weights.fit import CLASSIFIER
from workbench.weights.start import INITIAL, start_from

CAFFE = "img_norm_cfg = dict(\n    mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"
USUAL = (
    "data_preprocessor=dict(bgr_to_rgb=True, mean=[\n 123.675,\n 116.28,\n 103.53,\n ], std=[58.395, 57.12, 57.375])"
)
FEW = ("dog", "unicorn", "person", "cat")
"""Classes to learn, three of which COCO has in another order."""


def with_classes(experiment, number):
    return experiment.model_copy(update={"data": CocoData(classes=number)})


def fresh(experiment, number, seed=3):
    """Detector with its initial weights, and a copy of its state."""
    torch.manual_seed(seed)
    detector = build_detector(with_classes(experiment, number))
    return detector, {name: tensor.clone() for name, tensor in detector.state_dict().items()}


@pytest.fixture
def saved(weights, tmp_path):
    """Function that saves the weights under MMDetection's names, as a file of version 2 with some classes."""

    def save(classes=COCO_NAMES, **meta):
        content = of_version_2(weights, classes)
        content["meta"] |= meta
        torch.save(content, tmp_path / "published.pth")
        return tmp_path / "published.pth"

    return save


def assert_started(state, source, initial, pairs):
    """Check a state: the tensors of the source, and of its classifier the rows of ``pairs``, ours → theirs."""
    for name, tensor in state.items():
        if name not in CLASSIFIER:
            assert torch.equal(tensor, source[name]), name
            continue
        for ours in range(len(tensor)):
            expected = source[name][pairs[ours]] if ours in pairs else initial[name][ours]
            assert torch.equal(tensor[ours], expected), (name, ours)


ORDERS = {
    "same": (COCO_NAMES, COCO_NAMES, {i: i for i in range(80)}, "80 of 80 classes from the file, by name"),
    "permuted": (
        COCO_NAMES[::-1],
        COCO_NAMES,
        {i: 79 - i for i in range(80)},
        "80 of 80 classes from the file, by name",
    ),
    "partly equal": (
        COCO_NAMES,
        FEW,
        {0: COCO_NAMES.index("dog"), 2: COCO_NAMES.index("person"), 3: COCO_NAMES.index("cat")},
        "3 of 4 classes from the file, by name; initial values for unicorn",
    ),
    "disjoint": (
        COCO_NAMES,
        ("RBC", "WBC"),
        {},
        "initial values for all 2 classes, because the file has none of them (p",
    ),
    "one name twice": (COCO_NAMES, ("cat", "dog", "cat"), {1: COCO_NAMES.index("dog")}, "initial values for cat, cat"),
    "other capitals": (COCO_NAMES, ("Dog", "cat"), {1: COCO_NAMES.index("cat")}, "initial values for Dog"),
    "no names, other number": (None, FEW, {}, "initial values for all 4 classes, because the file names no classes"),
    "no names, equal number": (None, COCO_NAMES, {}, "initial values for all 80 classes, because the file names no cl"),
    "names of others": (FEW, FEW, {}, "because the file names 4 classes, but its weights have 80"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_rows_of_the_classifier_follow_the_names(saved, detector, experiment, case):
    stated, names, pairs, note = ORDERS[case]
    ours, initial = fresh(experiment, len(names))
    account = start_from(saved(stated), ours, with_classes(experiment, len(names)), names)
    assert_started(ours.state_dict(), detector.state_dict(), initial, pairs)
    assert note in account.lines[1]


def test_letters_with_accents_agree_in_both_forms(saved, detector, experiment):
    ours, initial = fresh(experiment, 1)
    file = saved(("caf\u00e9", *COCO_NAMES[1:]))
    start_from(file, ours, with_classes(experiment, 1), ("cafe\u0301",))
    assert_started(ours.state_dict(), detector.state_dict(), initial, {0: 0})


def test_each_tensor_is_accounted_for(saved, experiment):
    ours, _ = fresh(experiment, len(FEW))
    account = start_from(saved(), ours, with_classes(experiment, len(FEW)), FEW)
    tensors = account.facts["tensors"]
    assert tensors.keys() == ours.state_dict().keys()
    assert tensors["backbone.net.conv1.weight"] == "backbone.conv1.weight"
    assert tensors["head.scales.factors"] == ", ".join(f"bbox_head.scales.{i}.scale" for i in range(5))
    assert tensors[CLASSIFIER[1]] == "bbox_head.vfnet_cls.bias: 3 of 4 classes, initial values for the others"
    assert INITIAL not in [tensors[name] for name in tensors if name not in CLASSIFIER]
    parts = [name.split(".")[0] for name in tensors if name not in CLASSIFIER]
    counted = ", ".join(f"{part} {parts.count(part)}" for part in ("backbone", "neck", "head"))
    assert account.lines[0] == f"start: tensors of published.pth: {counted}"
    json.dumps(account.facts)


def test_a_tensor_without_a_source_keeps_its_initial_value_and_is_named(weights, experiment, tmp_path):
    """Old files lack the counters of BatchNorm."""
    few = OrderedDict((name, tensor) for name, tensor in weights.items() if not name.endswith("tracked"))
    torch.save(of_version_2(few), tmp_path / "old.pth")
    ours, _ = fresh(experiment, 80)
    tensors = start_from(tmp_path / "old.pth", ours, experiment, COCO_NAMES).facts["tensors"]
    assert {name for name, source in tensors.items() if source == INITIAL} == {
        n for n in tensors if n.endswith("tracked")
    }


@torch.no_grad()
def test_the_same_predictions_before_the_first_step(experiment, tmp_path):
    """The classes are in another order, and with them their outputs."""
    other, _ = fresh(experiment, 80, seed=1)
    torch.nn.init.normal_(other.head.cls_out.weight)
    torch.save(of_version_3(published(other)), tmp_path / "theirs.pth")
    ours, _ = fresh(experiment, 80)
    start_from(tmp_path / "theirs.pth", ours, experiment, COCO_NAMES[::-1])
    images = torch.rand(2, 3, 96, 128)
    here, there = (detector.eval().predict(images) for detector in (ours, other))
    assert here.logits.std() > 0.01
    assert torch.allclose(here.logits.flip(-1), there.logits, rtol=0, atol=1e-6)
    assert torch.equal(here.boxes, there.boxes)


def test_several_anchors_of_a_location(tmp_path):
    """RetinaNet stores the outputs of its nine anchors anchor by anchor."""
    experiment = load_row("table5", "t5_retinanet_fl").experiment
    names, few = tuple(f"class {i}" for i in range(experiment.data.classes)), ("class 5", "new")
    other, _ = fresh(experiment, len(names), seed=1)
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "train.json").write_text(json.dumps({"class_names": names}))
    ours, initial = fresh(experiment, len(few))
    start_from(tmp_path / "model.safetensors", ours, with_classes(experiment, len(few)), few)
    for name in CLASSIFIER:
        state, start, source = (x[name] for x in (ours.state_dict(), initial, other.state_dict()))
        assert len(state) == 9 * len(few)
        assert torch.equal(state[0::2], source[5 :: len(names)])
        assert torch.equal(state[1::2], start[1::2])


@pytest.fixture
def own_file(detector, tmp_path):
    """Function that saves the detector as the workbench does, with or without its classes beside it."""

    def save(names=COCO_NAMES):
        save_file(detector.state_dict(), tmp_path / "model.safetensors")
        if names is not None:
            (tmp_path / "train.json").write_text(json.dumps({"class_names": list(names)}))
        return tmp_path / "model.safetensors"

    return save


def test_a_model_of_the_workbench_has_its_classes_beside_it(own_file, detector, experiment):
    ours, initial = fresh(experiment, len(FEW))
    account = start_from(own_file(), ours, with_classes(experiment, len(FEW)), FEW)
    assert_started(ours.state_dict(), detector.state_dict(), initial, ORDERS["partly equal"][2])
    assert account.facts["tensors"]["neck.laterals.0.weight"] == "neck.laterals.0.weight"


def test_a_model_of_the_workbench_without_its_classes(own_file, detector, experiment):
    ours, initial = fresh(experiment, 80)
    account = start_from(own_file(None), ours, experiment, COCO_NAMES)
    assert_started(ours.state_dict(), detector.state_dict(), initial, {})
    assert account.lines[1].endswith("because the file names no classes")


@pytest.mark.parametrize(
    "config", [USUAL, USUAL.replace("=", " = ").replace("mean", "'mean'"), f"target_{CAFFE}{USUAL}"]
)
def test_the_usual_normalisation_is_accepted(saved, experiment, config):
    ours, _ = fresh(experiment, 80)
    notes = start_from(saved(config=config), ours, experiment, COCO_NAMES).facts["notes"]
    assert not any("normalisation" in note for note in notes)


def test_a_normalisation_that_is_not_stated_is_noted(saved, experiment):
    ours, _ = fresh(experiment, 80)
    notes = start_from(saved(), ours, experiment, COCO_NAMES).facts["notes"]
    assert "normalisation of images: not stated, taken as that of the detectors here" in notes


def broken(file):
    file.write_bytes(file.read_bytes()[:1000])


WRONG = {
    "no file": (lambda file, _: file.unlink(), r"no such file"),
    "half a file": (lambda file, _: broken(file), r"not a complete checkpoint of PyTorch"),
    "text": (lambda file, _: file.write_text("no weights"), r"not a complete checkpoint of PyTorch"),
    "numbers": (lambda file, _: torch.save({"a": 1}, file), r"contains no weights"),
    "another family": (
        lambda file, w: torch.save(of_version_3(changed(w, lambda n: n.replace("vfnet_cls", "atss_cls"))), file),
        r"another detector than vfnet with resnet50 of this run: \d+ missing \(.*\d+ head\)",
    ),
    "a backbone alone": (
        lambda file, w: torch.save({k.removeprefix("backbone."): t for k, t in w.items() if "backbone" in k}, file),
        r"another detector than .*missing \(\d+ backbone, \d+ neck, \d+ head\)",
    ),
    "not finite": (
        lambda file, w: torch.save(changed(w, str) | {next(iter(w)): w[next(iter(w))] / 0}, file),
        r"not fin",
    ),
    "caffe": (
        lambda file, w: torch.save({"state_dict": w, "meta": {"config": CAFFE, "mmdet_version": "2.10.0"}}, file),
        r"needs images with mean 103.53, 116.28, 123.675; std 1, 1, 1; channels in the order BGR, but",
    ),
    "caffe in tensors": (
        lambda file, w: torch.save(of_version_3(w | {"data_preprocessor.mean": torch.ones(3, 1, 1)}), file),
        r"needs images with mean 1, 1, 1, but the detectors here have images with mean 123.675, 116.28, 103.53; std",
    ),
    "MMDetection 1": (
        lambda file, w: torch.save({"state_dict": w, "meta": {"mmdet_version": "1.2.0"}}, file),
        r"weights of MMDetection 1.2.0, whose reference points",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_and_changes_nothing(saved, weights, experiment, case):
    spoil, message = WRONG[case]
    file = saved()
    spoil(file, weights)
    ours, initial = fresh(experiment, 80)
    with pytest.raises(WorkbenchError, match=message) as error:
        start_from(file, ours, experiment, COCO_NAMES)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, initial[name]) for name, tensor in ours.state_dict().items())
