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
