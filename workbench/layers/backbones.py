"""Backbones: timm's residual networks, with the paper's rules for frozen parts and BatchNorm, and DCNv2 in C3 to C5."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from workbench.layers.deform import ModulatedDeformConv, OffsetPredictor
from workbench.settings.experiment import Backbone
from workbench.support.errors import WorkbenchError

DEEP_STEMS = ("res2net101d",)
"""Networks that begin with three 3×3 convolutions instead of one 7×7: timm can narrow these itself."""


class ResidualBackbone(nn.Module):
    """Feature maps C3, C4, C5 (strides 8, 16, 32) of a residual network.

    Frozen stages get no gradient. With ``norm: frozen`` every BatchNorm stays in evaluation mode, its statistics fixed,
    while its weight and bias are trained (outside the frozen stages), as the released code does. With ``dcn`` every
    3×3 convolution from the second stage on is deformable, those of stride 2 and of many groups too.

    Attributes:
        channels: channels of C3, C4, C5.
    """

    def __init__(self, settings: Backbone):
        super().__init__()
        self.net = _network(settings)
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        """Strides of C3, C4, C5 in pixels."""
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
        """Take the weights of a torchvision or open-mmlab classification checkpoint; its classifier is left out.

        Deformable convolutions take those of the ordinary ones; their offset predictors stay as they are.
        """
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise WorkbenchError(f"{file}: no such file of pretrained weights") from None
        except Exception as error:
            raise WorkbenchError(f"{file}: no readable checkpoint ({type(error).__name__}); fetch it again") from None
        weights = weights.get("state_dict", weights)
        weights = {_timm_name(key): value for key, value in weights.items() if not key.startswith("fc.")}
        try:
            missing, surplus = self.net.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise WorkbenchError(
                f"{file}: not weights of this backbone ({str(error).splitlines()[1].strip()})"
            ) from None
        predictors = tuple(f"{name}." for name, m in self.net.named_modules() if isinstance(m, OffsetPredictor))
        # Checkpoints older than PyTorch 0.4.1 do not carry this counter, and nothing here reads it.
        missing = [key for key in missing if not (key.endswith("num_batches_tracked") or key.startswith(predictors))]
        if missing or surplus:
            raise WorkbenchError(f"{file}: not weights of this backbone (first difference: {(missing + surplus)[0]})")


def _network(settings: Backbone) -> nn.ModuleDict:
    """timm's network that gives C3, C4 and C5, with the widths and depths and the convolutions wanted."""
    name, stem = settings.name, settings.stem
    shape = {"layers": settings.layers, "channels": settings.channels}
    if name in DEEP_STEMS and stem is not None:
        if stem % 2:
            raise WorkbenchError(f"backbone '{name}': stem must be even, not {stem}; correct it")
        shape["stem_width"] = stem // 2
    given = {key: value for key, value in shape.items() if value is not None}
    try:
        net = timm.create_model(name, features_only=True, out_indices=(2, 3, 4), **given)
    except RuntimeError as error:
        raise WorkbenchError(f"backbone '{name}': {error}") from None
    if not all(parameter.numel() for parameter in net.parameters()):
        raise WorkbenchError(f"backbone '{name}': channels {settings.channels} leave a block without any; take more")
    if name not in DEEP_STEMS and stem is not None:
        _narrow_stem(net, stem)
    if name.startswith("res2net"):
        # Where a stage begins timm pools its last channels; the published networks do so only where the map shrinks.
        net["layer1"][0].pool = None
    if settings.dcn:
        for stage in ("layer2", "layer3", "layer4"):
            _deform(net[stage])
    return net


def _deform(stage: nn.Module) -> None:
    """Make every 3×3 convolution of a stage deformable, in place."""
    for path, conv in list(stage.named_modules()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            parent, _, name = path.rpartition(".")
            deformable = ModulatedDeformConv(conv.in_channels, conv.out_channels, conv.stride[0], conv.groups)
            setattr(stage.get_submodule(parent), name, deformable)


def _timm_name(key: str) -> str:
    """timm's name of a tensor of open-mmlab's: they differ in deep stems, whose last norm timm counts out of them."""
    return key.replace("stem.7.", "bn1.") if key.startswith("stem.7.") else key.replace("stem.", "conv1.", 1)


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
