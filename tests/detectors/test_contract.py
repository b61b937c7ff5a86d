"""Contract of all detectors: every family with all its variants, and every backbone of the tables, at a tiny size.

A new family is tested here as soon as its settings are in ``AnyDetector``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.detectors.test_families import HEAD, nameless_tensors, settings_classes
from tests.samples import BACKBONE, CANVAS, CLASSES, level_shapes, make_batch, make_experiment
from workbench.detectors import FAMILIES, build_detector
from workbench.detectors.postprocess import postprocess
from workbench.detectors.predictions import Pyramid
from workbench.losses.classification import CLASSIFICATION_LOSSES
from workbench.settings.base import Settings
from workbench.settings.catalog import load_table
from workbench.settings.detectors import AnyDetector, VFNet
from workbench.settings.files import table_names

LARGEST = 1_000_000
"""Size cap: parameters of a detector of these tests."""


def values_of(annotation: Any) -> tuple:
    """Values of a field that make different networks."""
    if annotation is bool:
        return False, True
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    options = get_args(annotation)
    if type(None) in options:
        return None, *(option() for option in options if option is not type(None))
    return ()


def variants_of(cls: type[Settings]) -> list[Settings]:
    """All valid combinations of a family's switches."""
    choices = {name: values_of(field.annotation) for name, field in cls.model_fields.items()}
    choices = {name: values for name, values in choices.items() if len(values) > 1}
    variants = []
    for values in itertools.product(*choices.values()):
        try:
            variants.append(cls(**dict(zip(choices, values, strict=True))))
        except ValidationError:
            continue
    return variants


VARIANTS = [variant for cls in settings_classes() for variant in variants_of(cls)]
BACKBONES = sorted(
    {row.experiment.backbone for table in table_names() for row in load_table(table, "mini")[1]}, key=lambda b: b.title
)
CASES = [(variant, BACKBONE) for variant in VARIANTS] + [(VFNet(), backbone) for backbone in BACKBONES]
IDS = [f"{type(detector).__name__}: {detector.title}, {backbone.title}" for detector, backbone in CASES]


@pytest.fixture(params=CASES, ids=IDS)
def case(request):
    """Experiment and detector, whose scores are high enough for detections."""
    experiment = make_experiment(request.param[0], CLASSIFICATION_LOSSES["varifocal"](), HEAD, request.param[1])
    torch.manual_seed(0)
    detector = build_detector(experiment)
    with torch.no_grad():
        detector.head.cls_out.bias.fill_(0)
    return experiment, detector


def test_variants_and_backbones_are_those_of_the_settings():
    titles = [variant.title for variant in VARIANTS]
    assert {"vfnet", "vfnet_star", "vfnet_raw", "fcos_atss", "vfnet_pafpn", "atss", "atss_joint", "gfl"} < set(titles)
    assert {variant.family for variant in VARIANTS} == FAMILIES.keys()
    assert len(titles) == len(set(titles))
    assert len({backbone.name for backbone in BACKBONES}) == 5 + 1  # of the paper, and of the positive control
    assert {backbone.dcn for backbone in BACKBONES} == {False, True}


def test_a_detector_is_small_and_repeatable(case):
    experiment, detector = case
    assert sum(p.numel() for p in detector.parameters()) < LARGEST
    torch.manual_seed(0)
    with torch.no_grad():
        again = build_detector(experiment)
        again.head.cls_out.bias.fill_(0)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_predictions_have_their_shapes(case):
    _, detector = case
    height, width = CANVAS
    predictions = detector.infer(torch.randn(2, 3, height, width))
    assert list(predictions.strides) == list(detector.strides) == [8, 16, 32, 64, 128]
    assert predictions.shapes == [(math.ceil(height / s), math.ceil(width / s)) for s in detector.strides]
    counts = [rows * columns * predictions.anchors_per_place for rows, columns in predictions.shapes]
    assert [tuple(points.shape) for points in predictions.points] == [(count, 2) for count in counts]
    total = sum(counts)
    assert predictions.logits.shape == (2, total, CLASSES)
    assert predictions.boxes.shape == (2, total, 4)
    for part in (predictions.initial_boxes, predictions.quality, predictions.codes):
        assert part is None or part.shape[:2] == (2, total)
    assert predictions.anchors is None or predictions.anchors.shape == (total, 4)
    assert (predictions.quality is not None) == case[0].detector.centerness
    assert (predictions.boxes[..., 2:] >= predictions.boxes[..., :2]).all()
    assert predictions.inside(torch.tensor([CANVAS, (60, 50)])).shape == (2, total)
    assert predictions.inside(torch.tensor([CANVAS, (60, 50)]))[0].all()


@pytest.mark.parametrize("counts", [(3, 2), (0, 0)], ids=["objects", "no object"])
def test_a_training_step_reaches_every_trained_parameter(case, counts):
    """timm's last norm of a block starts at zero and hides the gradients behind it, so it is set to 1 here."""
    _, detector = case
    for name, parameter in detector.named_parameters():
        if name.startswith("backbone.") and not parameter.any() and name.endswith("weight") and parameter.ndim == 1:
            torch.nn.init.ones_(parameter)
    batch = dataclasses.replace(make_batch(counts), images=torch.randn(2, 3, *CANVAS))
    terms = detector.train().loss(batch)
    assert {"cls", "box"} <= terms.keys()
    for name, term in terms.items():
        assert term.shape == (), name
        assert term.isfinite(), name
        assert (term > 0) == (any(counts) or name == "cls"), name
    sum(terms.values()).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or not any(counts) or "scales" in name, name  # a level without positives


def test_boxes_of_half_precision_are_computed_in_single_precision(case):
    """Autocast rounds the outputs of the last layers, but not the boxes that are decoded from these outputs.

    Coordinates are rounded to 2 pixels near 400 in bfloat16, and expected distances to a sixteenth of a stride.
    """
    _, detector = case
    maps = [torch.randn(1, HEAD.channels, *shape) for shape in level_shapes(128, 512)]
    pyramid, outputs = Pyramid(maps, detector.strides), []
    hooks = [part.register_forward_hook(lambda *call: outputs.append(call[-1])) for part in last_layers(detector.head)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = detector.head(pyramid)
    for hook in hooks:
        hook.remove()
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    replay = iter(outputs)
    for part in last_layers(detector.head):
        part.register_forward_hook(lambda *call: next(replay).float())
    with torch.no_grad():
        single = detector.head(pyramid)
    for boxes, expected in ((mixed.boxes, single.boxes), (mixed.initial_boxes, single.initial_boxes)):
        assert (boxes is None) == (expected is None)
        if boxes is not None:
            assert boxes.dtype == torch.float32
            torch.testing.assert_close(boxes, expected, rtol=1e-6, atol=1e-4)


def last_layers(head: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers whose outputs are a head's numbers."""
    return [part for name, part in head.named_modules() if name.endswith("_out")]


def test_assignments_name_objects_of_the_image(case):
    _, detector = case
    batch = dataclasses.replace(make_batch((3, 1)), images=torch.randn(2, 3, *CANVAS))
    index = detector.assign(detector.infer(batch.images), batch).index
    for image, count in enumerate((3, 1)):
        assert index[image].max() == count - 1
        assert index[image].min() >= -3


@pytest.mark.parametrize("levels", [slice(0, 3), slice(1, 4), slice(0, 2)], ids=["P3 to P5", "P4 to P6", "P3 and P4"])
def test_a_pyramid_may_have_other_levels(case, levels):
    """Strides come with the pyramid; heads, assigners and objectives know neither their number nor their values."""
    _, detector = case
    images, batch = torch.randn(2, 3, *CANVAS), make_batch((3, 2))
    maps, strides = detector.neck(detector.backbone(images))[levels], detector.strides[levels]
    predictions = detector.head(Pyramid(maps, strides))
    assert list(predictions.strides) == list(strides)
    assert predictions.shapes == [(math.ceil(CANVAS[0] / s), math.ceil(CANVAS[1] / s)) for s in strides]
    assert detector.assign(predictions, batch).positive.any()
    assert all(term.isfinite() for term in detector.terms(predictions, batch).values())
    assert len(postprocess(predictions, batch.sizes, detector.variant)[0].scores) > 0


def test_detections_are_sorted_and_inside_the_image(case):
    _, detector = case
    sizes = torch.tensor([CANVAS, (60, 50)])
    detector.train()
    detections = detector.detect(torch.randn(2, 3, *CANVAS), sizes)
    assert detector.training
    assert len(detections) == 2
    for one, (height, width) in zip(detections, sizes.tolist(), strict=True):
        assert 0 < len(one.scores) <= 100
        assert one.boxes.shape == (len(one.scores), 4)
        assert one.labels.dtype == torch.int64
        assert (one.scores.diff() <= 0).all()
        assert 0 < one.scores.min() <= one.scores.max() <= 1
        assert 0 <= one.labels.min() <= one.labels.max() < CLASSES
        assert (one.boxes.amin(0) >= 0).all()
        assert (one.boxes.amax(0) <= torch.tensor([width, height, width, height])).all()


@pytest.fixture(params=[cls() for cls in settings_classes()], ids=lambda settings: settings.title)
def detector(request):
    """Detector of a family with its default settings, whose scores are high enough for detections."""
    experiment = make_experiment(request.param, CLASSIFICATION_LOSSES["varifocal"](), HEAD)
    torch.manual_seed(0)
    detector = build_detector(experiment).eval()
    torch.nn.init.zeros_(detector.head.cls_out.bias)
    return detector


@pytest.mark.parametrize("canvas", [(96, 96), (288, 32), (64, 352)])
def test_a_detector_works_on_tall_and_wide_images(detector, canvas):
    images, sizes = torch.randn(2, 3, *canvas), torch.tensor([canvas, (canvas[0] - 9, canvas[1] - 5)])
    shapes = detector.infer(images).shapes
    assert shapes == [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in detector.strides]
    for one, (height, width) in zip(detector.detect(images, sizes), sizes.tolist(), strict=True):
        assert 0 < len(one.scores) <= 100
        assert (one.boxes.amin(0) >= 0).all()
        assert (one.boxes.amax(0) <= torch.tensor([width, height, width, height])).all()


def test_an_image_has_the_same_predictions_alone_and_in_a_batch(detector):
    images = torch.randn(2, 3, 96, 64)
    both, alone = detector.infer(images), detector.infer(images[1:])
    torch.testing.assert_close(both.boxes[1:], alone.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(both.logits[1:], alone.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_training", [True, False])
def test_inference_leaves_the_mode_and_walks_through_modules_only_to_change_it(detector, monkeypatch, is_training):
    detector.train(is_training)
    modes, calls, train = [m.training for m in detector.modules()], [], type(detector).train
    monkeypatch.setattr(type(detector), "train", lambda self, mode=True: calls.append(mode) or train(self, mode))
    hook = detector.head.register_forward_hook(lambda head, *_: calls.append(head.training))
    detector.infer(torch.zeros(1, 3, *CANVAS))
    hook.remove()
    assert calls == ([False, False, True] if is_training else [False])
    assert [m.training for m in detector.modules()] == modes


def test_an_image_without_anything_has_no_detections(case):
    _, detector = case
    with torch.no_grad():
        detector.head.cls_out.bias.fill_(-20)
    (one,) = detector.detect(torch.zeros(1, 3, *CANVAS), torch.tensor([CANVAS]))
    assert one.boxes.shape == (0, 4)
    assert one.scores.shape == one.labels.shape == (0,)


def test_every_tensor_has_a_name_in_mmdetection(case):
    assert nameless_tensors(*case) == []


def test_the_settings_are_read_back(case):
    """Experiments are written to JSON and read again; ``family`` alone selects the class."""
    settings = case[0].detector
    adapter = TypeAdapter(AnyDetector)
    assert adapter.validate_python(settings.model_dump()) == settings
    assert adapter.validate_python({"family": settings.family}) == type(settings)()
