"""Dead units of a detector: channels after a ReLU that are zero at every location of every image.

A dead unit learns nothing more, because its gradient is zero. A detector with many dead units is smaller than its
settings state, and its comparison with another detector is then a comparison of sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELUS: tuple[Callable[..., Any], ...] = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu)
"""Functions that a detector may compute a ReLU with. Layers of timm and torch call them, too."""
WHOLE = ("backbone", "neck")
"""Children of a detector that are one part each. A head has a part for each tower and star block."""


class ReluWatch(TorchFunctionMode):
    """Largest output of each ReLU's channels.

    Attributes:
        largest: name of a ReLU → largest output ``[C]`` of each channel. A ReLU has the name of its module, or of the
            module before it where it is a function. Levels of a pyramid that share a module count as one.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.largest: dict[str, Tensor] = {}
        self._name = ""  # of the last module that began or ended
        self._hooks = []
        for name, child in module.named_modules():
            self._hooks.append(child.register_forward_pre_hook(self._naming(name)))
            self._hooks.append(child.register_forward_hook(self._naming(name)))

    def close(self) -> None:
        """Remove all hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in RELUS and isinstance(out, Tensor) and out.ndim == 4:
            name, largest = self._name, out.amax(dim=(0, 2, 3))
            self.largest[name] = torch.maximum(self.largest[name], largest) if name in self.largest else largest
        return out

    def _naming(self, name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            self._name = name

        return note


@contextmanager
def watched_relus(module: nn.Module) -> Iterator[ReluWatch]:
    """Watch the ReLUs of a module within a ``with`` block."""
    watch = ReluWatch(module)
    try:
        with watch:
            yield watch
    finally:
        watch.close()


def dead_units(largest: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Count the dead units of each part of a network.

    Args:
        largest: name of a ReLU → largest output ``[C]`` of each channel.

    Returns:
        Part, the first two words of the names (``backbone``, ``head.cls_tower``) → number of dead units, and of units.
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, values in largest.items():
        first, *rest = name.split(".")
        part = first if first in WHOLE or not rest else f"{first}.{rest[0]}"
        dead, units = counts.get(part, (0, 0))
        counts[part] = dead + int((values <= 0).sum()), units + values.numel()
    return counts
