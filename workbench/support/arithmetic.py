"""Arithmetic of a process: the switches of PyTorch that decide numbers on a GPU. On a CPU they have no effect."""

from __future__ import annotations

from typing import Any


def set_precision(precision: str) -> None:
    """Switch TF32 on for ``tf32`` and off for every other precision, in matrix products and in cuDNN's convolutions.

    PyTorch's own defaults are mixed: off in matrix products, on in convolutions.

    Args:
        precision: ``fp32``, ``tf32`` or ``bf16``. The autocast of ``bf16`` is a context of the training step.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def arithmetic(precision: str, deformable_back_end: str | None) -> dict[str, Any]:
    """Return the arithmetic with which this process computes a number, for a JSON file.

    Args:
        precision: ``fp32``, ``tf32`` or ``bf16``.
        deformable_back_end: back end of the detector's deformable convolutions; None if it has none.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "precision": precision,
        "matmul": {"allow_tf32": matmul.allow_tf32},
        "cudnn": {
            "version": cudnn.version(),
            "allow_tf32": cudnn.allow_tf32,
            "benchmark": cudnn.benchmark,
            "deterministic": cudnn.deterministic,
        },
        "deformable_back_end": deformable_back_end,
    }
