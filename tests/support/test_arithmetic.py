"""Switches for TF32, and the facts about the arithmetic of a number."""

import pytest
import torch

from workbench.support.arithmetic import arithmetic, set_precision


@pytest.fixture(autouse=True)
def switches():
    """The switches of PyTorch, which are set back after the test."""
    both = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in both]
    yield
    for switch, value in zip(both, before, strict=True):
        switch.allow_tf32 = value


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
@pytest.mark.parametrize("before", [False, True])
def test_tf32_is_on_in_both_libraries_or_in_neither(precision, tf32, before):
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before, not before
    set_precision(precision)
    facts = arithmetic(precision, None)
    assert torch.backends.cuda.matmul.allow_tf32 == facts["matmul"]["allow_tf32"] == tf32
    assert torch.backends.cudnn.allow_tf32 == facts["cudnn"]["allow_tf32"] == tf32


def test_facts_state_the_switches_of_cudnn_and_the_back_end():
    facts = arithmetic("bf16", "mmcv")
    assert (facts["precision"], facts["deformable_back_end"]) == ("bf16", "mmcv")
    cudnn = torch.backends.cudnn
    assert facts["cudnn"]["version"] == cudnn.version()
    assert (facts["cudnn"]["benchmark"], facts["cudnn"]["deterministic"]) == (cudnn.benchmark, cudnn.deterministic)


@pytest.mark.gpu
def test_tf32_changes_matrix_products_and_convolutions_and_fp32_does_not():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no CUDA device with TF32: its effect has not been tested")
    torch.manual_seed(0)
    x, y = torch.randn(2, 512, 512)
    maps, weight = x.reshape(1, 64, 64, 64), torch.randn(64, 64, 3, 3)
    computations = {
        "matmul": lambda a: (x.to(a) @ y.to(a)).double(),
        "conv": lambda a: torch.nn.functional.conv2d(maps.to(a), weight.to(a), padding=1).double(),
    }
    for name, compute in computations.items():
        exact, errors = compute(torch.zeros((), dtype=torch.float64)), {}
        for precision in ("fp32", "tf32", "bf16"):
            set_precision(precision)
            errors[precision] = (compute(torch.zeros((), device="cuda")).cpu() - exact).abs().max() / exact.abs().max()
        assert max(errors["fp32"], errors["bf16"]) < 5e-5 < errors["tf32"], (name, errors)
