"""Speed of deformable convolution with each back end: ``workbench bench deform``."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from workbench.layers.deform import back_ends, deform_conv2d, fastest_back_end
from workbench.support.provenance import device_name, versions

SHAPES = ((8, 64, 16, 16), (8, 64, 32, 32), (2, 256, 40, 40), (1, 256, 100, 168))


def bench_deform(repeats: int = 5) -> str:
    """Time forward and backward of deformable convolution with each back end.

    Args:
        repeats: number of timed rounds, after one round of warm-up. Every round times all back ends, so that a machine
            that slows down slows all of them.

    Returns:
        Table of median milliseconds in Markdown.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = back_ends(device)
    lines = [
        f"Deformable convolution, forward and backward: median of {repeats} rounds in ms, on {device_name()} with "
        f"torch {versions()['torch']}. The back end `auto` is {fastest_back_end(device)} here.",
        "",
        f"| input | mask | {' | '.join(names)} |",
        f"|---|:-:|{'--:|' * len(names)}",
    ]
    for shape in SHAPES:
        for masked in (False, True):
            tensors = _tensors(shape, masked, device)
            times: dict[str, list[float]] = {name: [] for name in names}
            for round_ in range(repeats + 1):
                for name in names:
                    seconds = _time(tensors, name)
                    if round_:
                        times[name].append(seconds)
            cells = " | ".join(f"{1000 * statistics.median(times[name]):.1f}" for name in names)
            lines.append(f"| {'×'.join(map(str, shape))} | {'✓' if masked else ''} | {cells} |")
    return "\n".join(lines)


def _tensors(shape: tuple[int, int, int, int], masked: bool, device: torch.device) -> list[Tensor | None]:
    batch, channels, rows, columns = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    offset = 2 * torch.randn((batch, 18, rows, columns), generator=generator)
    weight = 0.05 * torch.randn((channels, channels, 3, 3), generator=generator)
    mask = torch.rand((batch, 9, rows, columns), generator=generator) if masked else None
    return [None if t is None else t.to(device).requires_grad_() for t in (x, offset, weight, mask)]


def _time(tensors: list[Tensor | None], name: str) -> float:
    """Return the seconds of one forward and backward pass."""
    on_gpu = tensors[0].device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    began = time.perf_counter()
    deform_conv2d(*tensors, back_end=name).sum().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began
