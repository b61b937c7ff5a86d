"""Classification losses of dense detectors: focal, quality focal and varifocal.

One contract makes them exchangeable: a loss takes logits and a target in [0, 1] of the same shape and returns the loss
of every entry, unreduced. The class of a loss states two facts:

- ``wants_quality``: whether the target of a positive is the IoU of its predicted box; otherwise the target is 1.
- ``counts_padding``: whether locations in an image's padding are trained as background, as in the released code of the
  varifocal loss; otherwise they are left out.

A loss is its own settings: an immutable pydantic model whose fields are the loss's hyper-parameters. So a new loss is
one class here, one name in ``CLASSIFICATION_LOSSES`` and one ``loss:`` key in a table. torch is imported only inside
the functions: the pipeline reads these settings at every start and does not need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


class ClassificationLoss(BaseModel):
    """Base class of all classification losses. The fields of a loss are its hyper-parameters and cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    wants_quality: ClassVar[bool]
    counts_padding: ClassVar[bool]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of every entry.

        Args:
            logits: any shape, float.
            target: same shape, in [0, 1]; 0 is background.

        Returns:
            Same shape, non-negative.
        """
        raise NotImplementedError


class FocalLoss(ClassificationLoss):
    """Focal loss (Lin et al., ICCV 2017, eq. 5) for a target of 0 or 1.

    ``alpha (1-p)^gamma (-ln p)`` for positives, ``(1-alpha) p^gamma (-ln(1-p))`` for negatives.
    """

    wants_quality: ClassVar[bool] = False
    counts_padding: ClassVar[bool] = False
    name: Literal["focal"] = "focal"
    alpha: float = Field(0.25, ge=0, le=1)
    gamma: float = Field(2.0, ge=0)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from torch.nn import functional as F

        p = logits.sigmoid()
        # p + t - 2pt is 1-p for a target t of 1, and p for a target of 0.
        miss = p + target - 2 * p * target
        balance = 1 - self.alpha + (2 * self.alpha - 1) * target
        return balance * _power(miss, self.gamma) * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


class QualityFocalLoss(ClassificationLoss):
    """Quality focal loss ``|y-p|^beta BCE(p, y)`` (Li et al., NeurIPS 2020, eq. 5), "GFL" in VFNet's paper."""

    wants_quality: ClassVar[bool] = True
    counts_padding: ClassVar[bool] = False
    name: Literal["quality_focal"] = "quality_focal"
    beta: float = Field(2.0, ge=0)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from torch.nn import functional as F

        distance = (target - logits.sigmoid()).abs()
        return _power(distance, self.beta) * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


class VarifocalLoss(ClassificationLoss):
    """Varifocal loss (Zhang et al., CVPR 2021, eq. 2): asymmetric, positives weighted by their quality.

    ``q BCE(p, q)`` for q > 0 (``BCE(p, q)`` without ``q_weighting``), ``alpha p^gamma BCE(p, 0)`` for q = 0. ``alpha``
    multiplies negatives only, and the factor ``p^gamma`` has a gradient.
    """

    wants_quality: ClassVar[bool] = True
    counts_padding: ClassVar[bool] = True
    name: Literal["varifocal"] = "varifocal"
    alpha: float = Field(0.75, ge=0)
    gamma: float = Field(2.0, ge=0)
    q_weighting: bool = True

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        import torch
        from torch.nn import functional as F

        positive = target if self.q_weighting else torch.ones_like(target)
        weight = torch.where(target > 0, positive, self.alpha * _power(logits.sigmoid(), self.gamma))
        return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _power(base: Tensor, exponent: float) -> Tensor:
    """Power of factors in [0, 1] with a finite gradient.

    With an exponent below 1 the slope at 0 is infinite, and its product with an inner gradient of 0 would be NaN.
    """
    if 0 < exponent < 1:
        import torch

        base = base.clamp(min=torch.finfo(base.dtype).tiny)  # its gradient below the minimum is 0
    return base.pow(exponent)


CLASSIFICATION_LOSSES = {"focal": FocalLoss, "quality_focal": QualityFocalLoss, "varifocal": VarifocalLoss}

AnyClassificationLoss = Annotated[Union[tuple(CLASSIFICATION_LOSSES.values())], Field(discriminator="name")]  # noqa: UP007
"""Type of an experiment's ``loss``; its ``name`` selects the class in ``CLASSIFICATION_LOSSES``."""
