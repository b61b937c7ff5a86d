"""Settings of the post-processing, which turns the predictions of a detector into detections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from workbench.settings.base import Settings


class PostProcessing(Settings):
    """Thresholds and limits of the post-processing."""

    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms: Literal["hard", "soft"] = "hard"
    """Soft-NMS lowers the scores of overlapping boxes instead of removing them (Bodla et al., ICCV 2017, linear)."""
    nms_iou: float | None = Field(None, gt=0, le=1)
    """Threshold of non-maximum suppression. Default: the published threshold of the detector."""
    candidates: int = Field(1000, ge=1, le=10_000_000)
    """Largest number of locations kept from each pyramid level."""
    max_detections: int = Field(100, ge=1, le=1_000_000)
