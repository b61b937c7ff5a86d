"""Helpers of the comparisons: equal random weights, equal inputs and a measure of difference for both sides."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from workbench.data.coco import ImageRecord
from workbench.data.transforms import Sample, collate
from workbench.weights.mmdet_names import renamer

CLASSES = 80
SHAPES = {  # one or more images (height, width)
    "square": [(192, 192)],
    "tall": [(256, 128)],
    "wide": [(96, 288)],
    "unequal": [(160, 224), (128, 75)],
}


def enliven(model, seed):
    """Set random weights: signals keep an ordinary size, and no scale, norm or bias is neutral."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    def normal(tensor, std, mean=0.0):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    gains = {"vfnet_reg": 0.4, "vfnet_reg_refine": 0.3, "vfnet_cls": 1.0, "conv_reg": 0.4, "conv_centerness": 1.0}
    with torch.no_grad():
        for path, module in model.named_modules():
            name, weight, bias = path.rpartition(".")[2], getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                last_of_block = name == "bn3"
                uniform(weight, *((0.1, 0.5) if last_of_block else (0.5, 1.5)))
                normal(bias, 0.2)
                if isinstance(module, nn.BatchNorm2d):
                    normal(module.running_mean, 0.3)
                    uniform(module.running_var, 0.5, 1.5)
            elif weight is not None and weight.ndim == 4:
                gain = gains.get(name, 1.0 if path.startswith("neck") else 2**0.5)
                normal(weight, gain / weight[0].numel() ** 0.5)
                if bias is not None:
                    normal(bias, *((0.7, -5.2) if name in ("vfnet_cls", "conv_cls") else (0.1,)))
            elif hasattr(module, "scale"):
                uniform(module.scale, 0.8, 1.2)
    return model.eval()


def take_weights(ours, theirs, name_of):
    """Copy every tensor of ``theirs`` into ``ours``, each exactly once.

    Args:
        ours: state to be overwritten.
        theirs: state of the reference.
        name_of: their name → our name, or our name and the element of our tensor.
    """
    state, filled = (
        {k: torch.full_like(v, -1) if v.dtype == torch.int64 else v * torch.nan for k, v in ours.items()},
        set(),
    )
    for name, tensor in theirs.items():
        target = name_of(name)
        assert target not in filled, f"{name} is a second source of {target}"
        filled.add(target)
        place = state[target] if isinstance(target, str) else state[target[0]][target[1]]
        assert place.shape == tensor.shape, (name, target)
        place.copy_(tensor)
    for name, tensor in state.items():
        assert not (tensor == -1).any() if tensor.dtype == torch.int64 else tensor.isfinite().all(), (
            f"{name} not filled"
        )
    return state


def head_renamer(experiment):
    """Function from MMDetection's name of a tensor within a head to its place within our head."""
    place = renamer(experiment)

    def within(name):
        actual = place(f"bbox_head.{name}")
        ours, *element = (actual,) if isinstance(actual, str) else actual
        return (ours.removeprefix("head."), *element) if element else ours.removeprefix("head.")

    return within


def draw_boxes(rng, count, height, width, smallest=4.0):
    """Boxes ``[count, 4]`` of all sizes and shapes within an image."""
    size = smallest * (np.array([width, height]) / smallest) ** rng.random((count, 2))
    corner = rng.random((count, 2)) * (np.array([width, height]) - size)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def draw_samples(sizes, counts, seed=0):
    """Samples of ours: images with structure at several scales, and objects."""
    rng, samples = np.random.default_rng(seed), []
    for number, ((height, width), count) in enumerate(zip(sizes, counts, strict=True)):
        noise = [torch.from_numpy(rng.random((1, 3, 2**k, 2**k), np.float32)) for k in (1, 3, 5)]
        image = sum(F.interpolate(x, size=(height, width), mode="bilinear") for x in noise)[0] / 3
        boxes, labels = draw_boxes(rng, count, height, width), rng.integers(0, CLASSES, count)
        record = ImageRecord(number, f"{number}.png", Path(f"{number}.png"), width, height, boxes, labels)
        samples.append(Sample((image * 255).to(torch.uint8), boxes, labels, record))
    return samples


def as_theirs(mm, model, samples):
    """MMDetection's inputs and data samples, from our samples by MMDetection's pre-processing."""
    listed = []
    for sample in samples:
        _, height, width = sample.image.shape
        entry = mm.Sample(
            metainfo={"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
        )
        entry.gt_instances = mm.Instances(
            bboxes=torch.from_numpy(sample.boxes).reshape(-1, 4), labels=torch.from_numpy(sample.labels)
        )
        listed.append(entry)
    bgr = [sample.image.flip(0) for sample in samples]
    data = model.data_preprocessor({"inputs": bgr, "data_samples": listed}, training=True)
    return data["inputs"], data["data_samples"]


def difference(a, b):
    """Largest difference relative to the largest value."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


ROUNDING = 1e-5
"""Largest difference of two scores that may be in another order on the other side."""
DETECTION_SIZES = [*list(SHAPES.values())[:3], [(160, 224), (150, 195)], [(256, 320)]]
DETECTION_IDS = [*list(SHAPES)[:3], "two", "large"]


def both_detections(mm, ours, theirs, variant, classifier, sizes, monkeypatch):
    """Detections by both sides of images of ``sizes``; the classifiers' biases are raised until there are many.

    On each level, MMDetection keeps the best 1000 pairs of location and class above the threshold. We keep the best 1000
    locations (or anchors) and all their pairs above it. With at most 900 such pairs per level both are the same.
    """
    samples = draw_samples(sizes, [0] * len(sizes), seed=5)
    batch = collate(samples).to("cpu")
    images, listed = as_theirs(mm, theirs, samples)
    predictions = ours.predict(batch.images)
    pairs = [
        logits.flatten(1)
        for logits in predictions.logits.split([len(level_points) for level_points in predictions.points], dim=1)
    ]
    highest = max(float(logits.topk(900).values[:, -1].max()) for logits in pairs if logits.shape[1] > 900)
    raised = float(torch.tensor(variant.score_threshold).logit()) - highest
    for conv in (ours.head.cls_out, classifier):
        monkeypatch.setitem(conv._parameters, "bias", nn.Parameter(conv.bias + raised))
    expected = [x.pred_instances for x in theirs.predict(images, listed, rescale=False)]
    return ours.detect(batch.images, batch.sizes, variant), expected


def assert_same_detections(here, there):
    """Compare many detections; none is empty, since only MMDetection drops empty boxes.

    Their order is the same up to detections whose scores differ by rounding only, which may be in any order.
    """
    assert len(there) >= 50
    assert there.labels.unique().numel() >= 10
    assert (here.boxes[:, 2:] > here.boxes[:, :2]).all()
    torch.testing.assert_close(here.scores, there.scores, rtol=0, atol=1e-4)
    tie = torch.cat([there.scores.new_zeros(1), (there.scores[:-1] - there.scores[1:] > ROUNDING).cumsum(0)])
    ours, theirs = (
        by_tie(tie, labels, boxes) for labels, boxes in ((here.labels, here.boxes), (there.labels, there.bboxes))
    )
    assert torch.equal(here.labels[ours], there.labels[theirs])
    torch.testing.assert_close(here.boxes[ours], there.bboxes[theirs], rtol=0, atol=1e-2)


def by_tie(tie, labels, boxes):
    """Order of detections by the number of their tie, within it by class and by the box's left side."""
    rows = zip(tie.tolist(), labels.tolist(), boxes[:, 0].tolist(), range(len(labels)), strict=True)
    return torch.tensor([row[-1] for row in sorted(rows)])
