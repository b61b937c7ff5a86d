"""The skeleton that all detectors share: backbone → neck → head → predictions → losses or detections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.data.batch import Batch
from workbench.detectors.postprocess import postprocess
from workbench.detectors.predictions import Detections, Predictions
from workbench.settings.variant import Variant


class Detector(nn.Module):
    """A dense detector, put together of a backbone, a neck and a head.

    The head maps a feature pyramid to ``Predictions`` and has ``loss(predictions, batch)`` and
    ``assign(predictions, batch)``, the ``Assignment`` that its classification is trained with.

    Example:
        >>> experiment = workbench.load_experiment("table3", "t3_fcos_atss", "mini")
        >>> detector = workbench.build_detector(experiment)
        >>> found = detector.detect(torch.zeros(1, 3, 96, 128), torch.tensor([[96, 128]]))
        >>> found[0].boxes.shape
        torch.Size([0, 4])
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module, variant: Variant):
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.variant = variant

    def predict(self, images: Tensor) -> Predictions:
        """Predictions for normalised images ``[B, 3, H, W]``, H and W multiples of 32."""
        return self.head(self.neck(self.backbone(images)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, a scalar, weighted and normalised; their sum is what training minimises."""
        return self.head.loss(self.predict(batch.images), batch)

    forward = loss  # what a wrapper for several processes calls

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """The object that each cell (anchor, where a cell has several) is to classify."""
        return self.head.assign(predictions, batch)

    @torch.no_grad()
    def infer(self, images: Tensor) -> Predictions:
        """``predict`` in evaluation mode and without gradients."""
        was_training = self.training
        self.eval()
        try:
            return self.predict(images)
        finally:
            self.train(was_training)

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor, variant: Variant | None = None) -> list[Detections]:
        """Final detections in pixels of the input.

        Args:
            images: ``[B, 3, H, W]``, normalised and padded.
            sizes: ``[B, 2]`` height and width of each image before padding; boxes are clipped to them.
            variant: how to post-process, without an oracle; the paper's way for this detector if None.

        Returns:
            One ``Detections`` an image, by descending score.
        """
        return postprocess(self.infer(images), sizes, variant or self.variant)
