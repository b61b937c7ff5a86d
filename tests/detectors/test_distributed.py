"""Two CPU processes compute the gradients of the whole batch, even if one of them has no positive."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RANK = Path(__file__).with_name("rank.py")
ROWS = ("t3_full_vfl", "t3_fcos_atss", "t5_atss_vfl", "gfl3_qfl_dfl")
CASES = [(row, empty) for row in ROWS for empty in (False, True)]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """Gradients of one process, and of each of two processes."""
    out = tmp_path_factory.mktemp("gradients")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen([sys.executable, RANK, str(rank), str(ranks), port, out], stderr=subprocess.PIPE, text=True)
        for rank, ranks in [(0, 2), (1, 2), (0, 1)]
    ]
    try:
        for process in started:
            _, output = process.communicate(timeout=120)  # ends a rank that waits forever
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()
    return {name: torch.load(out / f"{name}.pt") for name in ("1-0", "2-0", "2-1")}


@pytest.mark.parametrize("case", CASES)
def test_each_rank_has_the_gradients_of_the_whole_batch(gradients, case):
    whole = gradients["1-0"][case]
    for rank in ("2-0", "2-1"):
        for name, expected in whole.items():
            size = expected.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(gradients[rank][case][name] / size, expected / size, rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_compared_gradients_are_not_zero(gradients, case):
    assert sum(bool(g.abs().max() > 0) for g in gradients["1-0"][case].values()) > 0.9 * len(gradients["1-0"][case])
