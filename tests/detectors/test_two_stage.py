"""torchvision's Faster R-CNN as a detector: trained, run on images and evaluated like the detector of a row."""

from __future__ import annotations

import csv
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from tests.trainings import training_at
from workbench.data.batch import Batch
from workbench.data.coco import annotation_path, read_coco
from workbench.data.loader import evaluation_batches
from workbench.detectors import Detector
from workbench.detectors.predictions import Detections
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.necks import FPN
from workbench.settings.data import ImageSize
from workbench.settings.experiment import Experiment
from workbench.settings.variant import Oracle, Variant
from workbench.support.errors import WorkbenchError
from workbench.training import loop
from workbench.training.loop import Interrupted, train

CHANNELS, LEVELS = 32, ("0", "1", "2")
PROPOSALS = 100


class Pyramid(nn.Module):
    """Levels P3, P4, P5 of our backbone and neck, under the names that torchvision expects."""

    out_channels = CHANNELS

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.backbone = ResidualBackbone(experiment.backbone)
        self.neck = FPN(self.backbone.channels, CHANNELS)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(LEVELS, self.neck(self.backbone(images)), strict=False))


class TwoStage(Detector):
    """Faster R-CNN (Ren et al., NeurIPS 2015) as a ``Detector``.

    A batch is normalised, resized and padded already, so torchvision's own transform is left out.
    """

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.parts = FasterRCNN(
            Pyramid(experiment),
            rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * len(LEVELS)),
            rpn_post_nms_top_n_train=PROPOSALS,
            rpn_post_nms_top_n_test=PROPOSALS,
            box_roi_pool=MultiScaleRoIAlign(LEVELS, output_size=5, sampling_ratio=2),
            box_head=TwoMLPHead(CHANNELS * 5**2, 64),
            box_predictor=FastRCNNPredictor(64, experiment.data.classes + 1),  # class 0 is the background
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        targets = [
            {"boxes": boxes[valid], "labels": labels[valid] + 1}
            for boxes, labels, valid in zip(batch.boxes, batch.labels, batch.valid, strict=True)
        ]
        return self._run(batch.images, batch.sizes, targets)[1]

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor, variant: Variant | None = None) -> list[Detections]:
        heads, training = self.parts.roi_heads, self.training
        if variant is not None:
            heads.score_thresh, heads.nms_thresh = variant.score_threshold, variant.nms_iou
            heads.detections_per_img = variant.max_detections
        results, _ = self.eval()._run(images, sizes, None)
        self.train(training)
        return [Detections(result["boxes"], result["scores"], result["labels"] - 1) for result in results]

    def _run(self, images: Tensor, sizes: Tensor, targets: list[dict] | None) -> tuple[list[dict], dict[str, Tensor]]:
        """Detections in evaluation mode, losses in training mode; boxes are clipped to the sizes before padding."""
        image_list = ImageList(images, [tuple(size) for size in sizes.tolist()])
        features = self.parts.backbone(images)
        proposals, losses = self.parts.rpn(image_list, features, targets)
        results, more = self.parts.roi_heads(features, proposals, image_list.image_sizes, targets)
        return results, {name.removeprefix("loss_"): value for name, value in (losses | more).items()}


@pytest.fixture
def experiment(tiny_experiment):
    """Three epochs of four steps."""
    training = tiny_experiment.training.model_copy(update={"epochs": 3, "validate_every": 3})
    return tiny_experiment.model_copy(update={"training": training})


@pytest.fixture
def everything(experiment):
    """Evaluation that keeps boxes of any score, at an image size that needs padding."""
    return Variant(image=ImageSize(long=100, short=75), score_threshold=0, nms_iou=0.5)


def two_stage(experiment):
    torch.manual_seed(0)
    return TwoStage(experiment)


def log_of(folder):
    with (folder / "train.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_trains_detects_and_is_evaluated_like_a_row(experiment, everything, tiny_data, tmp_path):
    detector = two_stage(experiment)
    train(detector, experiment, training_at(tmp_path), tiny_data)
    rows = log_of(tmp_path)
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"} < rows[0].keys()
    losses = [float(row["loss"]) for row in rows]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert [row["step"] for row in rows if row["val_ap"]] == ["12"]
    data = read_coco(tiny_data, "val2017", training=False)
    detections = detect_data_set(detector, data, everything, "cpu")
    assert {entry["image_id"] for entry in detections} == {image.id for image in data.images}
    metrics = evaluate_detections(annotation_path(tiny_data, "val2017"), detections)
    assert metrics["images"] == 6
    assert metrics["detections"] == len(detections) > 0
    assert all(0 <= metrics[name] <= 1 for name in ("AP", "AP50", "AR100"))


def test_a_resumed_training_samples_the_same_proposals(experiment, tiny_data, tmp_path, monkeypatch):
    train(two_stage(experiment), experiment, training_at(tmp_path / "whole"), tiny_data)
    step, done = loop.take_step, []

    def stop_after_five(*arguments):
        done.append(step(*arguments))
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return done[-1]

    monkeypatch.setattr(loop, "take_step", stop_after_five)
    with pytest.raises(Interrupted):
        train(two_stage(experiment), experiment, training_at(tmp_path / "parts"), tiny_data)
    torch.manual_seed(99)  # a new process has drawn other random numbers
    train(TwoStage(experiment), experiment, training_at(tmp_path / "parts"), tiny_data)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole | parts)


def test_boxes_are_clipped_to_the_image_without_its_padding(experiment, everything, tiny_data):
    detector, data = two_stage(experiment), read_coco(tiny_data, "val2017", training=False)
    (batch, *_) = evaluation_batches(data, size=(100, 75))
    batch = batch.to("cpu")
    height, width = batch.sizes[0].tolist()
    assert (height, width) != tuple(batch.images.shape[2:])
    boxes = detector.detect(batch.images, batch.sizes, everything)[0].boxes
    assert (boxes.amin() >= 0) & (boxes[:, 2] <= width).all()
    assert boxes[:, 3].max() == height
    record = data.images[0]
    results = [entry for entry in detect_data_set(detector, data, everything, "cpu") if entry["image_id"] == record.id]
    corners = boxes * torch.tensor([record.width / width, record.height / height]).repeat(2)
    corners[:, 2:] -= corners[:, :2]
    torch.testing.assert_close(torch.tensor([entry["bbox"] for entry in results]), corners, rtol=0, atol=1e-3)


def test_an_oracle_needs_a_dense_detector(experiment, everything, tiny_data):
    data = read_coco(tiny_data, "val2017", training=False)
    variant = everything.model_copy(update={"oracle": Oracle(boxes=True)})
    with pytest.raises(WorkbenchError, match="TwoStage is not a dense detector; choose a variant without an oracle"):
        detect_data_set(two_stage(experiment), data, variant, "cpu")
