"""Comparison of a GPU with the CPU. Tolerances are relative to the largest entry of the compared tensor."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from tests import samples
from tests.samples import CANVAS, level_shapes, make_batch

VALUE, GRADIENT = 1e-5, 1e-4
LOSS, LOSS_GRADIENT = 1e-4, 1e-3
"""Tolerances of a whole detector, which accumulates rounding errors."""
SHAPES = level_shapes(*CANVAS)
SIZES = torch.tensor(samples.SIZES)
CLASSES = 6


def random(*shape, low=0.0, high=1.0, seed=0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_boxes(*shape, seed=0):
    corner = random(*shape, 2, high=80, seed=seed)
    return torch.cat([corner, corner + random(*shape, 2, low=10, high=60, seed=seed + 1)], dim=-1)


def noise_batch():
    """Two images of noise, of different sizes, with objects."""
    return replace(make_batch((5, 3)), images=normal(2, 3, *CANVAS))


def gradients_of(module):
    """Gradient of each parameter that is trained, by name; frozen stages have none."""
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def outcome(function, tensors, device):
    """Outputs of a function or module on a device, and the gradients of a weighted sum of the outputs, by name."""
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).to(device)
    leaves = [t.detach().clone().to(device).requires_grad_() for t in tensors]
    found = function(*leaves)
    outputs = [found] if isinstance(found, Tensor) else list(found)
    sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape).to(device)).sum() for y in outputs).backward()
    gradients = {f"gradient of input {i}": leaf.grad for i, leaf in enumerate(leaves)}
    if isinstance(function, nn.Module):
        gradients |= {f"gradient of {name}": g for name, g in gradients_of(function).items()}
    return {f"output {i}": y for i, y in enumerate(outputs)}, gradients


def assert_close(found, expected, tolerance):
    """Compare two dictionaries of tensors; the first may be on any device."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = value.detach().abs().max().clamp(min=1e-9)
        distance = float((found[name].detach().cpu() - value.detach()).abs().max() / size)
        assert distance <= tolerance, f"{name} differs by {distance:.1e} of its largest entry"  # NaN does not pass


def assert_agrees(function, tensors, device, value=VALUE, gradient=GRADIENT):
    (values, gradients), (there, gradients_there) = (outcome(function, tensors, d) for d in ("cpu", device))
    assert there["output 0"].device.type == device.type
    assert_close(there, values, value)
    assert_close(gradients_there, gradients, gradient)
