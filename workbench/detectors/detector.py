"""Detectors as the other rooms see them, and the skeleton that all dense detectors share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from workbench.assigners.assignment import Assignment
from workbench.data.batch import Batch
from workbench.detectors.postprocess import postprocess
from workbench.detectors.predictions import Detections, Predictions, Pyramid
from workbench.detectors.terms import Term
from workbench.settings.variant import Variant

Assigner = Callable[[Predictions, Batch], Assignment]
"""Choice of the object that each location is trained to predict."""
Objective = Callable[[Predictions, Assignment, Batch], dict[str, Term]]
"""Terms of the loss of a canvas."""


class Detector(nn.Module):
    """Base class of all detectors: a loss for training and detections for everything else.

    Training, inference, evaluation and benchmarks need these two methods only. A subclass implements both.
    """

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss, each a scalar, weighted and normalised. Training minimises their sum."""
        raise NotImplementedError

    def canvas_loss(self, batch: Batch) -> dict[str, Term]:
        """Terms of the loss of one canvas, to be combined with those of the other canvases of a step.

        Default: ``loss``, whose values are averaged over the canvases.
        """
        return {name: Term(value) for name, value in self.loss(batch).items()}

    def detect(self, images: Tensor, sizes: Tensor, variant: Variant | None = None) -> list[Detections]:
        """Detections in pixels of the input; training mode and gradients are left as they are.

        Args:
            images: ``[B, 3, H, W]``, normalised and padded, H and W multiples of 32.
            sizes: ``[B, 2]`` height and width of each image before padding; boxes are clipped to these sizes.
            variant: thresholds and limits of the post-processing (an oracle is ignored). Default: as published.

        Returns:
            One ``Detections`` per image, by descending score.
        """
        raise NotImplementedError


class DenseDetector(Detector):
    """Detector with one prediction per location of a feature pyramid, put together from exchangeable parts.

    Args:
        backbone: images ``[B, 3, H, W]`` → maps; states their ``strides``.
        neck: maps → maps of a pyramid; ``output_strides(strides)`` computes their strides.
        head: network from a ``Pyramid`` to ``Predictions``; it contains neither an assigner nor a loss.
        assigner: choice of the object that each location is trained to predict.
        objective: terms of the loss for predictions with their assignment.
        variant: published post-processing.

    Example:
        >>> experiment = workbench.load_experiment("table3", "t3_fcos_atss", "mini")
        >>> detector = workbench.build_detector(experiment)
        >>> detections = detector.detect(torch.zeros(1, 3, 96, 128), torch.tensor([[96, 128]]))
        >>> detections[0].boxes.shape
        torch.Size([0, 4])
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        assigner: Assigner,
        objective: Objective,
        variant: Variant,
    ):
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.assigner, self.objective, self.variant = assigner, objective, variant
        self.strides = neck.output_strides(backbone.strides)

    def predict(self, images: Tensor) -> Predictions:
        """Predictions for normalised images ``[B, 3, H, W]``, H and W multiples of 32."""
        return self.head(Pyramid(self.neck(self.backbone(images)), self.strides))

    def assign(self, predictions: Predictions, batch: Batch) -> Assignment:
        """Object that each location is trained to classify."""
        return self.assigner(predictions, batch)

    def terms(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss for predictions of a batch."""
        terms = self.objective(predictions, self.assigner(predictions, batch), batch)
        return {name: term.value for name, term in terms.items()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.terms(self.predict(batch.images), batch)

    def canvas_loss(self, batch: Batch) -> dict[str, Term]:
        predictions = self.predict(batch.images)
        return self.objective(predictions, self.assigner(predictions, batch), batch)

    @torch.no_grad()
    def infer(self, images: Tensor) -> Predictions:
        """``predict`` in evaluation mode and without gradients."""
        if not self.training:  # a change of mode walks through all modules, and costs some per cent of a small image
            return self.predict(images)
        self.eval()
        try:
            return self.predict(images)
        finally:
            self.train()

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor, variant: Variant | None = None) -> list[Detections]:
        return postprocess(self.infer(images), sizes, variant or self.variant)
