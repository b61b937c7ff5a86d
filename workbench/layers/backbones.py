"""Backbones: timm's residual networks, with the paper's rules for frozen parts and BatchNorm."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.experiment import Backbone


class ResidualBackbone(nn.Module):
    """Feature maps C3, C4, C5 (strides 8, 16, 32) of a residual network.

    Frozen stages get no gradient. With ``norm: frozen`` every BatchNorm stays in evaluation mode, its statistics fixed,
    while its weight and bias are trained (outside the frozen stages), as the released code does.

    Attributes:
        channels: channels of C3, C4, C5.
    """

    def __init__(self, settings: Backbone):
        super().__init__()
        shape = {"layers": settings.layers, "channels": settings.channels}
        try:
            self.net = timm.create_model(
                settings.name,
                features_only=True,
                out_indices=(2, 3, 4),
                **{key: value for key, value in shape.items() if value is not None},
            )
        except RuntimeError as error:
            raise WorkbenchError(f"backbone '{settings.name}': {error}") from None
        if settings.stem is not None:
            _narrow_stem(self.net, settings.stem)
        self.channels: list[int] = self.net.feature_info.channels()
        self.norm_frozen = settings.norm == "frozen"
        if settings.frozen_stages:
            stages = [f"layer{stage}" for stage in range(1, settings.frozen_stages + 1)]
            for name, child in self.net.named_children():
                if name in stages or not name.startswith("layer"):
                    child.requires_grad_(False)

    def train(self, mode: bool = True) -> ResidualBackbone:
        super().train(mode)
        if self.norm_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` → C3, C4, C5."""
        return self.net(images)

    def load_pretrained(self, file: Path) -> None:
        """Take the weights of a torchvision classification checkpoint; its classifier is left out."""
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise WorkbenchError(f"{file}: no such file of pretrained weights") from None
        except Exception as error:
            raise WorkbenchError(f"{file}: no readable checkpoint ({type(error).__name__}); fetch it again") from None
        weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
        try:
            missing, surplus = self.net.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise WorkbenchError(
                f"{file}: not weights of this backbone ({str(error).splitlines()[1].strip()})"
            ) from None
        # Checkpoints older than PyTorch 0.4.1 do not carry this counter, and nothing here reads it.
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        if missing or surplus:
            raise WorkbenchError(f"{file}: not weights of this backbone (first difference: {(missing + surplus)[0]})")


def _narrow_stem(net: nn.ModuleDict, width: int) -> None:
    """Give a residual network's stem ``width`` channels in place; timm knows only stems of 64."""
    first = net["layer1"][0]
    wide = first.conv3.out_channels
    net["conv1"] = _conv(3, width, net["conv1"])
    net["bn1"] = nn.BatchNorm2d(width)
    first.conv1 = _conv(width, first.conv1.out_channels, first.conv1)
    # timm leaves the projection out of the shortcut where 64 channels go in and out.
    first.downsample = nn.Sequential(_conv(width, wide, first.conv3), nn.BatchNorm2d(wide)) if width != wide else None


def _conv(in_channels: int, out_channels: int, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the same kind with other channels, initialised as timm does."""
    new = nn.Conv2d(in_channels, out_channels, like.kernel_size, like.stride, like.padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
