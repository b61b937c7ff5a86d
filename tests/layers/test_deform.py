"""The back ends of deformable convolution agree with each other, with an ordinary convolution and with a loop."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from workbench.layers import deform
from workbench.layers.deform import (
    DeformConv,
    ModulatedDeformConv,
    OffsetPredictor,
    back_end_of,
    back_ends,
    deform_conv2d,
    regular_grid,
)
from workbench.support.errors import WorkbenchError

BACK_ENDS = back_ends()  # with mmcv, if it is installed
MAPS = [(1, 1), (1, 7), (6, 1), (2, 2), (5, 9), (12, 4)]
KINDS = {"plain": {}, "stride": {"stride": 2}, "groups": {"groups": 2}, "both": {"stride": 2, "groups": 4}}


def random_tensors(rows, columns, masked=False, batch=2, stride=1, groups=1):
    """Map, offsets that are at least 0.01 away from pixels, weight, and mask if requested."""
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    channels = 3 if groups == 1 else 2 * groups
    x = torch.randn(batch, channels, rows, columns, generator=generator)
    rows, columns = math.ceil(rows / stride), math.ceil(columns / stride)
    offset = (torch.rand(batch, 18, rows, columns, generator=generator) * 2 - 1) * 3.0
    fraction = offset - offset.floor()
    offset = offset.floor() + fraction.clamp(1e-2, 1 - 1e-2)
    weight = torch.randn(4, channels // groups, 3, 3, generator=generator)
    mask = torch.rand(batch, 9, rows, columns, generator=generator)
    return (x, offset, weight, mask) if masked else (x, offset, weight)


def slow(x, offset, weight, mask=None, stride=1):
    """Sum over taps of weight times bilinear sample, with loops over numbers."""
    batch, channels, height, width = x.shape
    rows, columns = offset.shape[2:]
    in_group, out_group = weight.shape[1], len(weight) * weight.shape[1] // channels

    def value(b, c, i, j):
        return x[b, c, i, j].item() if 0 <= i < height and 0 <= j < width else 0.0

    def sample(b, c, y, column):
        i, j = math.floor(y), math.floor(column)
        return sum(
            value(b, c, i + di, j + dj) * (1 - abs(y - i - di)) * (1 - abs(column - j - dj))
            for di in (0, 1)
            for dj in (0, 1)
        )

    result = torch.zeros(batch, len(weight), rows, columns, dtype=torch.float64)
    for b, o, i, j in (
        (b, o, i, j) for b in range(batch) for o in range(len(weight)) for i in range(rows) for j in range(columns)
    ):
        for tap in range(9):
            dy, dx = offset[b, 2 * tap, i, j].item(), offset[b, 2 * tap + 1, i, j].item()
            y, column = stride * i + tap // 3 - 1 + dy, stride * j + tap % 3 - 1 + dx
            factor = 1.0 if mask is None else mask[b, tap, i, j].item()
            for k in range(in_group):
                c = o // out_group * in_group + k
                result[b, o, i, j] += factor * weight[o, k, tap // 3, tap % 3].item() * sample(b, c, y, column)
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (3, 1), (2, 2), (3, 4)])
def test_every_back_end_agrees_with_a_loop(back_end, masked, rows, columns, kind):
    stride = KINDS[kind].get("stride", 1)
    tensors = random_tensors(rows, columns, masked, batch=1, **KINDS[kind])
    expected = slow(*(t.double() for t in tensors), stride=stride)
    result = deform_conv2d(*tensors, back_end=back_end, stride=stride)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back_end", [name for name in BACK_ENDS if name != "sample"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [*MAPS, (16, 16), (40, 25)])
def test_back_ends_agree_forward_and_backward(back_end, masked, rows, columns, kind):
    results = []
    for name in (back_end, "sample"):
        leaves = [t.requires_grad_() for t in random_tensors(rows, columns, masked, **KINDS[kind])]
        y = deform_conv2d(*leaves, back_end=name, stride=KINDS[kind].get("stride", 1))
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for one, other, tolerance in zip(*results, (3e-5, 1e-4, 1e-3, 1e-4, 1e-4)[: len(results[0])], strict=True):
        size = one.abs().max().clamp(min=1)
        assert one.abs().max() > 0.01
        torch.testing.assert_close(one / size, other / size, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(("rows", "columns"), MAPS)
def test_zero_offsets_are_an_ordinary_convolution(back_end, rows, columns, kind):
    x, offset, weight = (t.requires_grad_() for t in random_tensors(rows, columns, **KINDS[kind]))
    stride, groups = KINDS[kind].get("stride", 1), KINDS[kind].get("groups", 1)
    plain = F.conv2d(x, weight, padding=1, stride=stride, groups=groups)
    deformed = deform_conv2d(x, torch.zeros_like(offset), weight, back_end=back_end, stride=stride)
    torch.testing.assert_close(deformed, plain, rtol=0, atol=3e-5)
    for one, other in zip(
        torch.autograd.grad(plain.square().sum(), (x, weight)),
        torch.autograd.grad(deformed.square().sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("far", [40.0, -40.0, 1e6, -1e6, 1e20])
def test_samples_far_outside_are_zero(back_end, far):
    x, offset, weight = (t.requires_grad_() for t in random_tensors(5, 9))
    y = deform_conv2d(x, offset * 0 + far, weight, back_end=back_end)
    y.sum().backward()
    assert (y == 0).all()
    for leaf in (x, offset, weight):
        assert (leaf.grad == 0).all()


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_samples_at_the_border_are_interpolated_with_zero(back_end):
    """Only the centre tap has a weight that is not zero; dy comes before dx."""
    x, weight = torch.ones(1, 1, 1, 3), torch.zeros(1, 1, 3, 3)
    weight[..., 1, 1] = 1
    for dy, dx, expected in [(1, 0, [0, 0, 0]), (-0.5, 0, [0.5] * 3), (0, 0.5, [1, 1, 0.5]), (0, -1, [0, 1, 1])]:
        offset = torch.zeros(1, 18, 1, 3)
        offset[:, 8], offset[:, 9] = dy, dx
        assert deform_conv2d(x, offset, weight, back_end=back_end).flatten().tolist() == pytest.approx(
            expected, abs=1e-6
        )


@pytest.mark.parametrize(("cuda_version", "back_end"), [("not available", "torchvision"), ("12.1", "mmcv")])
def test_mmcv_without_gpu_operators_is_not_used_on_a_gpu(monkeypatch, cuda_version, back_end):
    mmcv = SimpleNamespace(get_compiling_cuda_version=lambda: cuda_version)
    monkeypatch.setattr(deform, "mmcv_ops", lambda: mmcv)
    assert deform.fastest_back_end(torch.device("cuda")) == back_end
    assert "mmcv" in deform.back_ends("cpu")


BROKEN = {  # statement at the import of mmcv.ops → its error in the line, None for no line
    "raise RuntimeError('built for torch 1.8')": "RuntimeError: built for torch 1.8",
    "raise OSError('libcudart.so.11: no such file')": "OSError: libcudart",
    "import torch; torch.no_such_name": "AttributeError: module 'torch' has no",
    "raise ImportError('undefined symbol: _ZN3c10')": "ImportError: undefined symbol",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "1 / 0": "ZeroDivisionError: division",
    "get_compiling_cuda_version = str": "AttributeError: module 'mmcv.ops' has no attribute 'deform_conv2d'",
    "import mmcv._ext": None,  # mmcv without operators
}


@pytest.mark.parametrize("statement", BROKEN)
def test_operators_of_mmcv_that_do_not_load_are_reported_once(statement, tmp_path, monkeypatch, capsys):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").write_text("")
    (tmp_path / "mmcv" / "ops.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mmcv"]:
        monkeypatch.delitem(sys.modules, name)
    deform.mmcv_ops.cache_clear()
    try:
        assert back_ends("cpu") == ["sample", "torchvision"]
        assert deform.fastest_back_end(torch.device("cuda")) == "torchvision"
        lines = capsys.readouterr().err.splitlines()
    finally:
        deform.mmcv_ops.cache_clear()
        for name in ("mmcv", "mmcv.ops"):
            sys.modules.pop(name, None)
    if BROKEN[statement] is None:
        assert not lines
        return
    assert len(lines) == 1
    assert lines[0].startswith(f"mmcv.ops: cannot be loaded ({BROKEN[statement]}")
    assert "torchvision's operators are used instead; install an mmcv" in lines[0]


def test_the_regular_grid_has_pairs_of_dy_and_dx_in_row_major_order():
    assert regular_grid("cpu").view(9, 2).tolist() == [[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)]


def test_the_module_agrees_with_the_function_and_unknown_back_ends_are_refused():
    layer = DeformConv(3, 4)
    x, offset, _ = random_tensors(5, 9)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"weight": (4, 3, 3, 3)}  # no bias
    torch.testing.assert_close(
        layer(x, offset), deform_conv2d(x, offset, layer.weight, back_end="torchvision"), atol=3e-5, rtol=0
    )
    with pytest.raises(
        WorkbenchError, match=r"^back_end: 'mmdet' is not available; choose auto, sample or torchvision"
    ):
        deform_conv2d(x, offset, layer.weight, back_end="mmdet")


# ------------------------------------------------------------------------------------------------------------- DCNv2


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_dcnv2_is_half_an_ordinary_convolution(kind):
    torch.manual_seed(0)
    layer, x = ModulatedDeformConv(8, 4, **KINDS[kind]), torch.randn(2, 8, 5, 9)
    plain = F.conv2d(x, layer.weight, padding=1, **KINDS[kind])
    torch.testing.assert_close(layer(x), plain / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_dcnv2_predicts_offsets_then_masks(monkeypatch, kind, back_end):
    """Channels 0 to 17 of the predictor are ``dy, dx`` of the taps, channels 18 to 26 the logits of the masks."""
    monkeypatch.setattr(deform, "fastest_back_end", lambda device: back_end)
    torch.manual_seed(1)
    layer, x = ModulatedDeformConv(8, 4, **KINDS[kind]), torch.randn(1, 8, 4, 3)
    torch.nn.init.normal_(layer.predictor.weight, std=0.2)
    torch.nn.init.normal_(layer.predictor.bias)
    stride = KINDS[kind].get("stride", 1)
    raw = F.conv2d(x.double(), layer.predictor.weight.double(), layer.predictor.bias.double(), stride, padding=1)
    mask = 1 / (1 + (-raw[:, 18:]).exp())
    with torch.no_grad():
        expected = slow(x.double(), raw[:, :18], layer.weight.double(), mask, stride)
        torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=1e-5)


def test_initial_weights_and_parameters_of_a_dcnv2():
    torch.manual_seed(0)
    layer = ModulatedDeformConv(64, 96, groups=32)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"weight": (96, 2, 3, 3), "predictor.weight": (27, 64, 3, 3), "predictor.bias": (27,)}
    assert isinstance(layer.predictor, OffsetPredictor)
    assert not layer.predictor.weight.any()
    assert not layer.predictor.bias.any()
    bound = 1 / math.sqrt(9 * 64)  # of all channels, not of a group
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_all_parameters_of_an_untrained_dcnv2_have_gradients():
    torch.manual_seed(0)
    layer = ModulatedDeformConv(4, 4, stride=2, groups=2)
    (layer(torch.randn(2, 4, 7, 9)) * torch.randn(2, 4, 4, 5)).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert layer.weight.grad.any()
    assert (layer.predictor.bias.grad != 0).all()


def test_the_back_end_of_a_network_is_the_one_that_its_modules_use(monkeypatch):
    plain, convolution = torch.nn.Conv2d(1, 1, 3), torch.nn.Sequential(ModulatedDeformConv(2, 2))
    assert back_end_of(plain) is None
    assert back_end_of(convolution) == back_end_of(DeformConv(2, 2)) == "sample"
    monkeypatch.setattr(deform, "back_ends", lambda device: ["sample", "torchvision", "mmcv"])
    with torch.device("meta"):
        assert back_end_of(ModulatedDeformConv(2, 2)) == "mmcv"
