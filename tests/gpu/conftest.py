"""Fixtures of the tests on a GPU: the device, and single precision."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="module")
def device():
    """The GPU. With ``WORKBENCH_TEST_DEVICE=cpu`` the CPU takes its place, to try the tests without a GPU."""
    name = os.environ.get("WORKBENCH_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device: the GPU has not been tested")
    return torch.device(name)


@pytest.fixture
def no_tf32():
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value
