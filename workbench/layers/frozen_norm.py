"""BatchNorm with fixed statistics as a part of the convolution before it.

Fixed statistics make BatchNorm an affine map of each channel: ``scale * x + shift``. A convolution with the kernel
``scale * weight`` and the bias ``shift`` computes convolution and norm in one pass over the map. The norm then needs
neither time nor memory of the map's size, forward and backward. The gradients of all weights stay the same up to
rounding.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from workbench.layers.convolution import convolve


class NormedConv(nn.Conv2d):
    """Convolution without bias together with the fixed BatchNorm that follows it.

    The norm stays a module of the network, at its old place and with its old names in the state. There it passes its
    input on.

    Args:
        conv: convolution without bias, whose weight is used as it is (not copied).
        norm: norm of the convolution's output.

    Shapes: as ``conv``.
    """

    def __init__(self, conv: nn.Conv2d, norm: FixedNorm):
        # On the meta device, no random number is drawn: the weight comes from ``conv``.
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            device="meta",
        )
        self.weight = conv.weight
        self.norms = (norm,)
        """The norm, in a tuple, which keeps it out of this module's state."""

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self.norms
        scale, shift = norm.affine_map()
        return convolve(self, x, self.weight * scale[:, None, None, None], shift)


class FixedNorm(nn.BatchNorm2d):
    """BatchNorm with fixed statistics that a ``NormedConv`` applies.

    Args:
        norm: norm whose weights and statistics are used as they are (not copied).

    Shapes: any map, which is returned as it is.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__(norm.num_features, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def affine_map(self) -> tuple[Tensor, Tensor]:
        """Scale and shift ``[channels]``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        return x


def fix_norms(network: nn.Module, blocks: tuple[type[nn.Module], ...]) -> None:
    """Make each convolution and its norm in a network one convolution, in place. The norm must have fixed statistics.

    Pairs are neighbours of an ``nn.Sequential``, and in the stem and the residual blocks a convolution and the norm of
    its number (``conv1`` and ``bn1``, ``convs.0`` and ``bns.0``). Other norms are not changed.

    Args:
        network: residual network of timm; random numbers are not drawn.
        blocks: types of the residual blocks.
    """
    for parent in list(network.modules()):
        names = {}
        if isinstance(parent, nn.Sequential):
            children = [name for name, _ in parent.named_children()]
            names = dict(pairwise(children))
        elif parent is network or isinstance(parent, blocks):
            names = {name: name.replace("conv", "bn") for name, _ in parent.named_modules() if name.startswith("conv")}
        for conv, norm in names.items():
            _pair(parent, conv, norm)


def _pair(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    """Replace a convolution and its norm below ``parent``; leave anything else as it is."""
    conv = parent.get_submodule(conv_name)
    try:
        norm = parent.get_submodule(norm_name)
    except AttributeError:
        return
    if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv.bias is None:
        norm = FixedNorm(norm)
        parent.set_submodule(norm_name, norm)
        parent.set_submodule(conv_name, NormedConv(conv, norm))
