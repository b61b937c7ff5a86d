"""Backbones: timm's residual networks with the paper's frozen stages and BatchNorm, and with DCNv2 in C3 to C5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from workbench.layers.convolution import make_gradients_fast
from workbench.layers.deform import ModulatedDeformConv, OffsetPredictor
from workbench.settings.experiment import Backbone
from workbench.support.errors import WorkbenchError, one_line

DEEP_STEMS = ("res2net101d",)
"""Networks whose stem has three 3×3 convolutions instead of one 7×7; timm can set the width of such a stem."""


class ResidualBackbone(nn.Module):
    """Residual network that computes the feature maps C3, C4 and C5 (strides 8, 16 and 32).

    Frozen stages have no gradient. With ``norm: frozen``, every BatchNorm is in evaluation mode with fixed statistics.
    Its weight and bias are trained outside the frozen stages, as in the released code. With ``dcn``, every 3×3
    convolution from the second stage on is deformable, also with stride 2 and with groups. A deformable convolution
    starts from the weight of the convolution that it replaces, pretrained or random.

    Attributes:
        channels: channels of C3, C4 and C5.
    """

    def __init__(self, settings: Backbone):
        super().__init__()
        self.net = _network(settings)
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        """Strides of C3, C4, C5 in pixels."""
        self.norm_frozen = settings.norm == "frozen"
        make_gradients_fast(self.net)
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
        """Compute C3, C4 and C5 of images ``[B, 3, H, W]``."""
        return self.net(images)

    def load_pretrained(self, file: Path) -> None:
        """Load a torchvision or open-mmlab classification checkpoint without its classifier.

        A deformable convolution loads the weight of the ordinary convolution; its offset predictor is not changed.
        """
        try:
            if Path(file).suffix == ".safetensors":
                weights = load_file(file)
            else:
                weights = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise WorkbenchError(f"{file}: pretrained weights not found; run workbench weights to fetch them") from None
        except Exception as error:
            raise WorkbenchError(
                f"{file}: not a readable checkpoint ({type(error).__name__}); fetch it again"
            ) from None
        if isinstance(weights, Mapping):
            weights = weights.get("state_dict", weights)
        if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
            raise WorkbenchError(
                f"{file}: not weights of this backbone (it has no tensors with names); use its weights"
            )
        weights = {_timm_name(key): value for key, value in weights.items() if not key.startswith("fc.")}
        try:
            missing, surplus = self.net.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            difference = str(error).splitlines()[1].strip()
            raise WorkbenchError(f"{file}: not weights of this backbone ({difference}); use its weights") from None
        predictors = tuple(f"{name}." for name, m in self.net.named_modules() if isinstance(m, OffsetPredictor))
        # Checkpoints older than PyTorch 0.4.1 lack this counter, which is not used here.
        missing = [key for key in missing if not (key.endswith("num_batches_tracked") or key.startswith(predictors))]
        if missing or surplus:
            difference = (missing + surplus)[0]
            raise WorkbenchError(
                f"{file}: not weights of this backbone (first difference: {difference}); use its weights"
            )


def _network(settings: Backbone) -> nn.ModuleDict:
    """Build timm's network for C3, C4 and C5 with the widths, depths and convolutions of the settings.

    Raises:
        WorkbenchError: timm has no such network, or the network does not fit the settings or a pyramid.
    """
    name = settings.name
    # timm would read some other names as addresses or paths.
    if not (name.isidentifier() and timm.is_model(name)):
        raise WorkbenchError(f"backbone '{name}': not a network of timm; correct its settings")
    for key in ("layers", "channels"):
        numbers = getattr(settings, key)
        if numbers is not None and min(numbers) < 1:
            raise WorkbenchError(f"backbone '{name}': {key} {numbers} contain numbers below 1; increase them")
    try:
        return _adapted(settings)
    except WorkbenchError:
        raise
    except IndexError:
        raise WorkbenchError(
            f"backbone '{name}': has fewer than the five levels of features of a ResNet; choose another network"
        ) from None
    except Exception as error:  # timm's networks fail in many ways
        raise WorkbenchError(
            f"backbone '{name}': cannot be built ({type(error).__name__}: {one_line(error)}); correct its settings"
        ) from None


def _adapted(settings: Backbone) -> nn.ModuleDict:
    """Build a network whose name and depths are valid."""
    name, stem = settings.name, settings.stem
    shape = {"layers": settings.layers, "channels": settings.channels}
    if name in DEEP_STEMS and stem is not None:
        if stem % 2:
            raise WorkbenchError(f"backbone '{name}': stem must be even, not {stem}; choose an even width")
        shape["stem_width"] = stem // 2
    options = {key: value for key, value in shape.items() if value is not None}
    net = timm.create_model(name, features_only=True, out_indices=(2, 3, 4), **options)
    if not all(parameter.numel() for parameter in net.parameters()):
        raise WorkbenchError(
            f"backbone '{name}': channels {settings.channels} leave a block without channels; increase them"
        )
    if not {"layer1", "layer2", "layer3", "layer4"} <= {child for child, _ in net.named_children()}:
        _check_other(net, settings)
    if name not in DEEP_STEMS and stem is not None:
        _narrow_stem(net, stem)
    if name.startswith("res2net"):
        # timm pools the last channels at the start of each stage; published networks do so only if the map shrinks.
        net["layer1"][0].pool = None
    if settings.dcn:
        for stage in ("layer2", "layer3", "layer4"):
            _deform(net[stage])
    return net


@torch.no_grad()
def _check_other(net: nn.Module, settings: Backbone) -> None:
    """Check a network that is not a ResNet: it must compute a pyramid, and no setting may need parts of a ResNet.

    Raises:
        WorkbenchError: frozen stages, a stem or DCNv2 are set, or the maps are not a pyramid.
    """
    for key in ("frozen_stages", "stem", "dcn"):
        if getattr(settings, key):
            raise WorkbenchError(f"backbone '{settings.name}': {key} needs a residual network; leave {key} out")
    side, strides, channels = 64, net.feature_info.reduction(), net.feature_info.channels()
    expected = [(1, count, side // stride, side // stride) for count, stride in zip(channels, strides, strict=True)]
    shapes = [tuple(x.shape) for x in net.eval()(torch.zeros(1, 3, side, side))]
    net.train()
    if strides != [8, 16, 32] or shapes != expected:
        raise WorkbenchError(
            f"backbone '{settings.name}': its maps {shapes} with strides {strides} are not a pyramid of strides 8, 16 "
            "and 32; choose a convolutional network with such maps"
        )


def _deform(stage: nn.Module) -> None:
    """Make every 3×3 convolution of a stage deformable, in place. Each starts from the weight of the convolution."""
    for path, conv in list(stage.named_modules()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            parent, _, name = path.rpartition(".")
            deformable = ModulatedDeformConv(conv.in_channels, conv.out_channels, conv.stride[0], conv.groups)
            deformable.weight = conv.weight
            setattr(stage.get_submodule(parent), name, deformable)


def _timm_name(key: str) -> str:
    """Translate open-mmlab's name of a tensor to timm's name. In timm, a deep stem does not contain its last norm."""
    return key.replace("stem.7.", "bn1.") if key.startswith("stem.7.") else key.replace("stem.", "conv1.", 1)


def _narrow_stem(net: nn.ModuleDict, width: int) -> None:
    """Change the stem of a residual network to ``width`` channels, in place; timm supports only 64."""
    first = net["layer1"][0]
    wide = first.conv3.out_channels
    net["conv1"] = _conv(3, width, net["conv1"])
    net["bn1"] = nn.BatchNorm2d(width)
    first.conv1 = _conv(width, first.conv1.out_channels, first.conv1)
    # timm leaves out the projection of the shortcut if input and output both have 64 channels.
    first.downsample = nn.Sequential(_conv(width, wide, first.conv3), nn.BatchNorm2d(wide)) if width != wide else None


def _conv(in_channels: int, out_channels: int, like: nn.Conv2d) -> nn.Conv2d:
    """Convolution like another one but with other numbers of channels, initialised as in timm."""
    new = nn.Conv2d(in_channels, out_channels, like.kernel_size, like.stride, like.padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
