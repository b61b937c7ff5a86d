"""Convolution with a matrix product for the weight's gradient: the values of PyTorch, and the layers that use it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.detectors import build_detector
from workbench.layers import convolution
from workbench.layers.convolution import Conv2d
from workbench.settings.catalog import load_experiment, load_row

CASES = {  # channels in and out, kernel, stride, padding, height and width
    "3x3": (5, 7, 3, 1, 1, (6, 9)),
    "3x3 on a point": (5, 7, 3, 1, 1, (1, 1)),
    "3x3 of stride 2": (5, 7, 3, 2, 1, (6, 9)),
    "1x1": (5, 7, 1, 1, 0, (6, 9)),
    "1x1 of stride 2": (5, 7, 1, 2, 0, (7, 9)),
    "no padding": (5, 7, 3, 1, 0, (6, 9)),
}


@pytest.fixture
def every_weight(monkeypatch):
    """The matrix product for small weights, too."""
    monkeypatch.setattr(convolution, "LEAST_ENTRIES", 1)


def gradients(conv, x):
    x = x.clone().requires_grad_()
    y = conv(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    return [y, x.grad, *(p.grad for p in conv.parameters())]


@pytest.mark.parametrize("entries", [1, 2**25], ids=["image by image", "whole batch"])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_pytorch_s(every_weight, monkeypatch, case, bias, memory, entries):
    monkeypatch.setattr(convolution, "PATCH_ENTRIES", entries)
    channels, out, kernel, stride, padding, size = case
    torch.manual_seed(0)
    conv = Conv2d(channels, out, kernel, stride, padding, bias=bias).double().to(memory_format=memory)
    plain = nn.Conv2d(channels, out, kernel, stride, padding, bias=bias).double()
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(3, channels, *size, dtype=torch.float64).to(memory_format=memory)
    assert "_Convolution" in conv(x).grad_fn.name()
    for actual, expected in zip(gradients(conv, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_a_frozen_input_gets_no_gradient(every_weight):
    conv = Conv2d(3, 4, 3, padding=1)
    conv(torch.ones(1, 3, 5, 5)).sum().backward()
    assert conv.weight.grad.shape == conv.weight.shape


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}, {"stride": (1, 2)}])
def test_other_convolutions_are_pytorch_s(every_weight, options):
    assert "_Convolution" not in Conv2d(4, 4, 3, **options)(torch.ones(1, 4, 9, 9)).grad_fn.name()


def test_evaluation_and_autocast_are_pytorch_s(every_weight):
    conv, x = Conv2d(4, 4, 3), torch.ones(1, 4, 9, 9)
    with torch.no_grad():
        assert conv(x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert (y.dtype, "_Convolution" in y.grad_fn.name()) == (torch.bfloat16, False)


def custom_convolutions(detector, image):
    """Number of the convolutions in the graph of a detector's predictions whose gradient is a matrix product."""
    predictions = detector.predict(image)
    stack, seen = [predictions.logits.grad_fn, predictions.boxes.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(function for function, _ in node.next_functions)
    return sum("_Convolution" in node.name() for node in seen)


ROWS = ["t5_atss_fl", "t5_retinanet_fl", "t5_foveabox_fl", "t5_reppoints_fl", "t5_vfnet_vfl"]


@pytest.mark.parametrize("row", ROWS)
def test_scale_mini_keeps_pytorch_s_gradients(row):
    """Its results stay the same bit for bit."""
    detector = build_detector(load_row("table5", row).experiment).train()
    assert custom_convolutions(detector, torch.zeros(2, 3, 96, 128)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_the_large_weights_at_full_width_use_it(row):
    detector = build_detector(load_experiment("table5", row, "coco")).train()
    assert custom_convolutions(detector, torch.zeros(1, 3, 128, 128)) > 50
