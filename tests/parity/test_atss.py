"""ATSS and GFL against MMDetection 3.3.0's shipped configurations, with the same random weights.

MMDetection differs in three points, and the inputs are chosen so that both sides agree: MMDetection divides box losses
by a sum of weights of at least 1, chooses candidates without centerness, and drops empty boxes.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parity.comparison import (
    CLASSES,
    DETECTION_IDS,
    DETECTION_SIZES,
    SHAPES,
    as_theirs,
    assert_same_detections,
    both_detections,
    difference,
    draw_samples,
    enliven,
    head_renamer,
    take_weights,
)
from tests.samples import STRIDES, NoBackbone
from workbench.boxes import encode_distances, per_location
from workbench.data.transforms import collate
from workbench.detectors import FAMILIES, build_detector
from workbench.detectors.codes import DistanceDistributions
from workbench.detectors.parts import flatten_levels
from workbench.detectors.predictions import Pyramid
from workbench.settings.catalog import load_row
from workbench.settings.detectors import Distribution
from workbench.weights.mmdet_names import renamer

CONFIGS = {"atss": "atss/atss_r50_fpn_1x_coco.py", "gfl": "gfl/gfl_r50_fpn_1x_coco.py"}
ROWS = {"atss": ("table5", "t5_atss_fl"), "gfl": ("gfl_table3", "gfl3_qfl_dfl")}
TERMS = {
    "atss": {"loss_cls": "cls", "loss_bbox": "box", "loss_centerness": "centerness"},
    "gfl": {"loss_cls": "cls", "loss_bbox": "box", "loss_dfl": "distribution"},
}
BOX_TERMS = {"box", "distribution"}


# The two detectors with the same weights.


NAMES = {kind: renamer(load_row(*row, "coco").experiment) for kind, row in ROWS.items()}


def without_constants(state):
    """State without the values of a distribution, which are a buffer in MMDetection and not a weight."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("integral.project")}


def enliven_head(head, kind):
    """Set biases for class scores of all sizes, boxes of all shapes, and distributions with a peak."""
    generator = torch.Generator().manual_seed(3)
    classifier, regressor = (getattr(head, f"{kind}_{part}") for part in ("cls", "reg"))
    with torch.no_grad():
        classifier.bias.copy_(torch.randn(classifier.bias.shape, generator=generator) * 0.7 - 3)
        regressor.bias.copy_(torch.randn(regressor.bias.shape, generator=generator) * 0.7)
    return head


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, mm):
    """Kind, our detector and MMDetection's."""
    kind = request.param
    config = mm.config(CONFIGS[kind]).model
    config.backbone.init_cfg = None
    theirs = enliven(mm.model(config), 0)
    enliven_head(theirs.bbox_head, kind)
    ours = build_detector(load_row(*ROWS[kind], "coco").experiment)
    ours.load_state_dict(take_weights(ours.state_dict(), without_constants(theirs.state_dict()), NAMES[kind]))
    return kind, ours.eval(), theirs


# 1. Predictions.


def by_level(values, shapes):
    """Values ``[B, P, K]``, split into levels."""
    return values.split([rows * columns for rows, columns in shapes], dim=1)


def decoded_by_theirs(kind, head, codes, shapes):
    """Boxes ``[B, P, 4]`` that MMDetection decodes from its box outputs."""
    results = []
    priors = head.prior_generator.grid_priors(shapes, device="cpu")
    for level, (anchors, stride) in enumerate(zip(priors, STRIDES, strict=True)):
        x = flatten_levels([codes[level]])
        for image in x:
            if kind == "atss":
                results.append((level, head.bbox_coder.decode(anchors, image)))
            else:
                centres = (anchors[:, :2] + anchors[:, 2:]) / 2
                results.append((level, head.bbox_coder.decode(centres, head.integral(image) * stride)))
    return torch.cat([torch.stack([x for points, x in results if points == level]) for level in range(5)], dim=1)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_predictions_agree(pair, mm, shape):
    kind, ours, theirs = pair
    samples = draw_samples(SHAPES[shape], [0] * len(SHAPES[shape]))
    batch = collate(samples).to("cpu")
    images, _ = as_theirs(mm, theirs, samples)
    predictions = ours.predict(batch.images)
    logits, codes, *centerness = theirs(images, mode="tensor")
    assert [tuple(x.shape[2:]) for x in logits] == predictions.shapes
    compared = [(predictions.logits, logits), (predictions.codes, codes)]
    if kind == "atss":
        compared.append((predictions.quality.unsqueeze(-1), centerness[0]))
    else:
        assert predictions.quality is None
    for actual, expected in compared:
        assert flatten_levels(expected).std() > 0.4
        for one, other in zip(by_level(actual, predictions.shapes), expected, strict=True):
            assert difference(one, flatten_levels([other])) < 1e-4
    points, boxes = (
        torch.cat(list(predictions.points)),
        decoded_by_theirs(kind, theirs.bbox_head, codes, predictions.shapes),
    )
    # Distances relative to the largest one of the level: in pixels, large strides would hide small ones.
    actual, expected = (by_level(encode_distances(points, x), predictions.shapes) for x in (predictions.boxes, boxes))
    for one, other in zip(actual, expected, strict=True):
        assert difference(one, other) < 1e-4


def test_the_growth_of_a_box_has_the_same_bound(mm, pair):
    """The deltas are larger than a network's and beyond MMDetection's bound of the growth."""
    kind, ours, theirs = pair
    if kind == "gfl":
        pytest.skip("GFL has no deltas")
    point, stride = torch.tensor([[8.0, 16.0]]), torch.tensor([[8.0]])
    codes = torch.tensor([-1e3, -30, -20, 0, 20, 21, 1e3])[:, None].repeat(1, 4) * torch.tensor([0.01, -0.02, 1, -1])
    actual = ours.head.code.decode(codes, point, stride)
    anchors = torch.tensor([[8.0 - 32, 16 - 32, 8 + 32, 16 + 32]]).repeat(7, 1)
    expected = theirs.bbox_head.bbox_coder.decode(anchors, codes)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-3)


# 2. Losses and 3. their gradients.

OBJECTS = {"none": (0, 0), "one": (0, 1), "200 and 120": (200, 120), "between levels": (3, 2)}


def samples_with(name):
    """Two images of unequal size with the objects of that name."""
    samples = draw_samples(SHAPES["unequal"], OBJECTS[name], seed=1)
    if name == "one":  # large enough for a sum of weights beyond 1
        samples[1] = replace(samples[1], boxes=np.array([[3.0, 5, 70, 120]], np.float32))
    if name == "between levels":  # as large as the geometric mean of two levels' anchors, 64 and 128 pixels
        rng = np.random.default_rng(2)
        for i, sample in enumerate(samples):
            _, height, width = sample.image.shape
            shape = rng.uniform(0.75, 0.82, len(sample.boxes))
            side = 90.5 * np.stack([shape, 1 / shape], axis=1)
            corner = rng.random(side.shape) * ([width, height] - side)
            samples[i] = replace(sample, boxes=np.concatenate([corner, corner + side], axis=1).astype(np.float32))
    return samples


@pytest.fixture(scope="module")
def outputs(pair, mm):
    """For each name of objects: our predictions and batch; MMDetection's outputs, ground truth and image facts."""
    _, ours, theirs = pair
    made = {}
    for name in OBJECTS:
        samples = samples_with(name)
        batch = collate(samples).to("cpu")
        images, listed = as_theirs(mm, theirs, samples)
        instances, facts = [x.gt_instances for x in listed], [x.metainfo for x in listed]
        if not made:  # in training mode, in which BatchNorm must not change
            predictions, out = ours.train().predict(batch.images), theirs.train()(images, mode="tensor")
            ours.eval(), theirs.eval()
        made[name] = predictions, batch, out, instances, facts
    return made


def both_losses(pair, case):
    kind, ours, theirs = pair
    predictions, batch, out, instances, facts = case
    expected = theirs.bbox_head.loss_by_feat(*out, instances, facts)
    assert expected.keys() == TERMS[kind].keys()
    # Some terms of MMDetection are lists with one entry per level.
    expected = {TERMS[kind][key]: sum(x) if isinstance(x, list | tuple) else x for key, x in expected.items()}
    return ours.terms(predictions, batch), expected


def sum_of_weights(pair, case):
    """Normaliser of the box terms, by its definition: the sum of centerness targets, or of best class scores."""
    kind, ours, _ = pair
    predictions, batch = case[:2]
    assignment = ours.assign(predictions, batch)
    if kind == "gfl":
        return float(predictions.logits[assignment.positive].double().sigmoid().amax(-1).sum())
    all_points = torch.cat(list(predictions.points)).expand(len(batch.boxes), -1, -1)[assignment.positive]
    left, top, right, bottom = encode_distances(all_points, assignment.gather(batch.boxes)).double().unbind(-1)
    pairs = [(torch.minimum(*pair), torch.maximum(*pair)) for pair in ((left, right), (top, bottom))]
    return float((pairs[0][0] / pairs[0][1] * pairs[1][0] / pairs[1][1]).sqrt().sum())


@pytest.mark.parametrize("objects", OBJECTS)
@torch.no_grad()
def test_losses_agree(pair, outputs, objects):
    actual, expected = both_losses(pair, outputs[objects])
    if objects != "none":
        assert sum_of_weights(pair, outputs[objects]) > 1
    assert actual.keys() == expected.keys()
    for term, value in expected.items():
        assert value.isfinite()
        assert (value > 0) == (term == "cls" or objects != "none")
        assert float(actual[term]) == pytest.approx(float(value), rel=1e-5), term


@torch.no_grad()
def test_objects_between_levels_are_learnt_on_several(pair, outputs):
    _, ours, _ = pair
    predictions, batch = outputs["between levels"][:2]
    index = ours.assign(predictions, batch).index
    levels = torch.cat([torch.full((len(x),), level) for level, x in enumerate(predictions.points)]).expand_as(index)
    on = [levels[i][index[i] == g].unique().numel() for i, own in enumerate(batch.valid) for g in range(int(own.sum()))]
    assert sum(n > 1 for n in on) >= len(on) / 2


@torch.no_grad()
def test_a_small_sum_of_weights_is_the_normaliser(pair, outputs):
    """MMDetection 3.3.0 divides by at least 1; the released code and we divide by the sum itself."""
    kind, _, _ = pair
    predictions, batch, out, instances, facts = outputs["between levels" if kind == "gfl" else "one"]
    if kind == "gfl":  # low scores
        predictions = replace(predictions, logits=predictions.logits - 8)
        out = ([x - 8 for x in out[0]], out[1])
    else:  # a small object with two locations near its border
        box = torch.tensor([[17.0, 23, 29, 35]])
        batch = replace(batch, boxes=torch.stack([torch.zeros(1, 4), box]))
        instances[1].bboxes, before = box, instances[1].bboxes
    case = (predictions, batch, out, instances, facts)
    actual, expected = both_losses(pair, case)
    if kind == "atss":
        instances[1].bboxes = before
    total = sum_of_weights(pair, case)
    assert 1e-4 < total < 0.9
    for term, value in actual.items():
        shrunk = total if term in BOX_TERMS else 1
        assert float(value) * shrunk == pytest.approx(float(expected[term]), rel=1e-5), term


def test_gradients_agree(pair, outputs):
    kind, ours, theirs = pair
    actual, expected = both_losses(pair, outputs["200 and 120"])
    gradients = {}
    for side, model, terms in (("ours", ours, actual), ("theirs", theirs, expected)):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        values = torch.autograd.grad(sum(terms.values()), list(trained.values()), retain_graph=True)
        gradients[side] = dict(zip(trained, values, strict=True))
    frozen = ("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")
    assert not any(name.startswith(frozen) for name in gradients["ours"])
    assert any(name.startswith("backbone.net.layer2.0.bn1") for name in gradients["ours"])
    reference = take_weights(gradients["ours"], gradients["theirs"], NAMES[kind])
    for name, gradient in gradients["ours"].items():
        assert reference[name].any(), name
        assert difference(gradient, reference[name]) < 1e-3, name
        assert (gradient - reference[name]).norm() < 1e-3 * reference[name].norm(), name


# 4. Detections.


@pytest.mark.parametrize("sizes", DETECTION_SIZES[:4], ids=DETECTION_IDS[:4])
@torch.no_grad()
def test_detections_agree(pair, mm, monkeypatch, sizes):
    kind, ours, theirs = pair
    classifier, variant = getattr(theirs.bbox_head, f"{kind}_cls"), load_row(*ROWS[kind], "coco").variant
    actual, expected = both_detections(mm, ours, theirs, variant, classifier, sizes, monkeypatch)
    for (height, width), here, there in zip(sizes, actual, expected, strict=True):
        # MMDetection ranks candidates without centerness, we with it: all locations are candidates here.
        assert height * width / 64 < 1000
        assert_same_detections(here, there)


# Distributions of another number of values.


@pytest.mark.parametrize("intervals", [12, 18])
def test_a_head_with_another_number_of_intervals_agrees(mm, intervals):
    settings = {"type": "GFLHead", "num_classes": CLASSES, "in_channels": 32, "feat_channels": 32, "stacked_convs": 2}
    config = mm.config(CONFIGS["gfl"]).model
    train = {key: config[key] for key in ("train_cfg", "test_cfg")}
    kept = {key: config.bbox_head[key] for key in ("anchor_generator", "loss_cls", "loss_dfl", "loss_bbox")}
    theirs = enliven_head(enliven(mm.model({**settings, **kept, **train, "reg_max": intervals}), 6), "gfl")
    experiment = load_row(*ROWS["gfl"], "coco").experiment
    changes = {
        "head": experiment.head.model_copy(update={"channels": 32, "stacked_convs": 1}),
        "detector": experiment.detector.model_copy(update={"distribution": Distribution(intervals=intervals)}),
    }
    ours = FAMILIES["atss"].build(experiment.model_copy(update=changes), NoBackbone())
    weights = take_weights(ours.head.state_dict(), without_constants(theirs.state_dict()), head_renamer(experiment))
    ours.head.load_state_dict(weights)
    samples = draw_samples([(96, 320), (90, 200)], [5, 3])
    samples[0].boxes[0] = 8, 40, 312, 54  # so long that its ends are beyond the last value of its locations
    batch = collate(samples).to("cpu")
    pyramid = [torch.randn(2, 32, *size) for size in ((12, 40), (6, 20), (3, 10), (2, 5), (1, 3))]
    predictions, out = ours.head(Pyramid(pyramid, STRIDES)), theirs(pyramid)
    instances = [mm.Instances(bboxes=torch.from_numpy(s.boxes), labels=torch.from_numpy(s.labels)) for s in samples]
    facts = [{"img_shape": s.image.shape[1:], "pad_shape": (96, -(-s.image.shape[2] // 32) * 32)} for s in samples]
    expected = theirs.loss_by_feat(*out, instances, facts)
    actual = ours.terms(predictions, batch)
    positive = ours.assign(predictions, batch).positive
    targets = ours.assign(predictions, batch).gather(batch.boxes)
    all_points = torch.cat(list(predictions.points)).expand(2, -1, -1)[positive]
    steps = (
        encode_distances(all_points, targets) / per_location(STRIDES, predictions.points).expand(2, -1, -1)[positive]
    )
    assert (steps > intervals - 0.1).any()
    for theirs_term, term in TERMS["gfl"].items():
        value = sum(expected[theirs_term]) if isinstance(expected[theirs_term], list) else expected[theirs_term]
        assert float(actual[term]) == pytest.approx(float(value), rel=1e-5), term
    codes = flatten_levels(out[1])
    torch.testing.assert_close(
        DistanceDistributions(intervals).expected_distances(codes),
        theirs.integral(codes.flatten(0, 1)).view(2, -1, 4),
        rtol=1e-5,
        atol=1e-5,
    )
