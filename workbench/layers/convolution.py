"""Convolution whose weight gradient is one matrix product on a CPU.

For channels-last maps, oneDNN's kernels (PyTorch 2.11, AVX2) compute output and input gradient at four fifths of the
processor's peak, but the gradient of a 3×3 weight at a third. A matrix product of the output's gradient with the
patches of the input (Chellapilla et al., IWFHR 2006) takes half the time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEAST_ENTRIES = 2**17
"""Entries of the smallest weight whose gradient is a matrix product. All weights at scale ``mini`` are smaller."""
PATCH_ENTRIES = 2**25
"""Entries of the patches that are in memory at a time (128 MiB in single precision), or of one image if it has more."""


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a faster gradient of large weights on a CPU; the values agree up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.stride[0] == self.stride[1]
        large = self.weight.numel() >= LEAST_ENTRIES and self.weight.requires_grad and torch.is_grad_enabled()
        if plain and large and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            return _Convolution.apply(x, self.weight, self.bias, self.stride, self.padding)
        return super().forward(x)


def make_gradients_fast(network: nn.Module) -> None:
    """Make each plain convolution of a network a ``Conv2d`` of this module, in place, with the same weights."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = Conv2d


class _Convolution(torch.autograd.Function):
    """``F.conv2d`` with the weight's gradient of ``weight_gradient``."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, weight_gradient(x, gradient, weight.shape, ctx.stride[0], ctx.padding), of_bias, None, None


def weight_gradient(
    x: Tensor, gradient: Tensor, shape: tuple[int, int, int, int], stride: int, padding: tuple[int, int]
) -> Tensor:
    """Gradient of a convolution's weight, channels-last.

    Args:
        x: input ``[B, in, H, W]`` of the convolution.
        gradient: ``[B, out, h, w]``, of the output.
        shape: ``out, in, rows, columns`` of the weight.
        stride, padding: of the convolution.
    """
    out, channels, rows, columns = shape
    # The order of a channels-last map: rows, columns, channels.
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    gradient = gradient.permute(0, 2, 3, 1)
    size = rows * columns * channels
    images = max(1, PATCH_ENTRIES // (gradient[0, :, :, 0].numel() * size))
    total = gradient.new_zeros(out, size)
    for part, of_part in zip(x.split(images), gradient.split(images), strict=True):
        patches = part.unfold(1, rows, stride).unfold(2, columns, stride)
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, size)
        total.addmm_(of_part.reshape(-1, out).t(), patches)
    return total.view(out, rows, columns, channels).permute(0, 3, 1, 2)
