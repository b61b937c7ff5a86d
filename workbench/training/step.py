"""One step of a training: gradients of all canvases of this process, and the losses that the steps report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from workbench.data.batch import Batch
from workbench.detectors import Detector
from workbench.detectors.terms import Term, mean_normalisers, step_terms
from workbench.evaluation.inference import enough_values
from workbench.support.errors import WorkbenchError
from workbench.training.agreement import least_of_all_processes, mean_of_processes
from workbench.training.interrupts import Interrupted
from workbench.training.schedule import rate_factor
from workbench.training.state import TrainingState

READ_EVERY = 50
"""Largest number of steps on a GPU whose losses are not read yet. Reading waits until the GPU has done its work."""


class CanvasLosses(nn.Module):
    """Terms of the loss of several canvases in one module.

    DistributedDataParallel needs one forward pass for each backward pass.
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, canvases: Sequence[Batch], seeds: Sequence[int]) -> list[dict[str, Term]]:
        """Terms of each canvas. Torch is seeded before each canvas, since a detector may draw samples in its loss."""
        losses = []
        for canvas, seed in zip(canvases, seeds, strict=True):
            torch.manual_seed(seed)
            with enough_values(canvas):
                losses.append(self.detector.canvas_loss(canvas))
        return losses


def take_step(state: TrainingState, canvases: Sequence[Batch]) -> tuple[dict[str, Tensor], float]:
    """Update the weights once.

    Args:
        canvases: this process's canvases of the step.

    Returns:
        The terms of the loss, averaged over these canvases, on the device; and the learning rate.
    """
    settings = state.experiment.training
    factor = rate_factor(settings, state.step, state.steps_per_epoch)
    for group in state.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    state.optimiser.zero_grad(set_to_none=True)
    terms = add_gradients(state, [canvas.to(state.fabric.device) for canvas in canvases])
    if settings.clip_gradient is not None:
        # A check here would wait for the GPU. An infinite gradient makes weights NaN: the next checkpoint reports it.
        state.fabric.clip_gradients(
            state.module, state.optimiser, max_norm=settings.clip_gradient, error_if_nonfinite=False
        )
    state.optimiser.step()
    return terms, state.optimiser.param_groups[0]["lr"]


def add_gradients(state: TrainingState, canvases: Sequence[Batch]) -> dict[str, Tensor]:
    """Add the gradients of the step's loss to the weights; return its terms, averaged over these canvases.

    If memory does not suffice for the graphs of all canvases, a pass without gradients computes the normalisers of the
    step first. The gradients are then the same, up to rounding.
    """
    first, count = state.fabric.global_rank * state.plan.canvases, len(canvases)
    seeds = [_seed(state, first + number) for number in range(count)]
    size = state.plan.at_a_time
    parts = [slice(start, start + size) for start in range(0, count, size)]
    means = None
    if len(parts) > 1:
        with torch.no_grad(), autocast(state), _kept_buffers(state.detector):
            alone = CanvasLosses(state.detector)
            losses = [terms for part in parts for terms in alone(canvases[part], seeds[part])]
        means = mean_normalisers(losses)
    values: dict[str, Tensor] = {}
    for number, part in enumerate(parts, 1):
        with state.fabric.no_backward_sync(state.module, enabled=number < len(parts)):
            with autocast(state):
                losses = state.module(canvases[part], seeds[part])
            if means is None:
                means = mean_normalisers(losses)
            share = len(losses) / count
            terms = {name: term * share for name, term in step_terms(losses, means).items()}
            state.fabric.backward(sum(terms.values()))
        for name, term in terms.items():
            values[name] = values.get(name, 0.0) + term.detach()
    return values


def _seed(state: TrainingState, canvas: int) -> int:
    """Seed of a canvas of the next step, so that a resumed training draws the same random numbers."""
    sequence = np.random.SeedSequence((int(state.training.seed), state.step, canvas))
    return int(sequence.generate_state(1, np.uint64)[0])


def autocast(state: TrainingState) -> torch.autocast:
    """Context in which the network computes in the precision of the training."""
    mixed = state.experiment.training.precision == "bf16"
    return torch.autocast(state.fabric.device.type, torch.bfloat16, enabled=mixed)


@contextmanager
def _kept_buffers(module: nn.Module) -> Iterator[None]:
    """Restore all buffers afterwards, because a pass in training mode changes the running statistics of BatchNorm."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)


class RecentLosses:
    """Losses of the last steps, which stay on the device until they are read.

    Attributes:
        most: number of steps after which they must be read.
        seconds: time since they were read last.
    """

    def __init__(self, device: torch.device):
        self.most = 1 if device.type == "cpu" else READ_EVERY
        self.seconds = 0.0
        self._steps: list[tuple[int, dict[str, Tensor], Sequence[str]]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, terms: dict[str, Tensor], canvases: Sequence[Batch], seconds: float) -> None:
        """Add the terms of a step, each a scalar, and the time that it took."""
        names = [name for canvas in canvases for name in canvas.file_names]
        self._steps.append((step, terms, names))
        self.seconds += seconds

    def read(self) -> list[dict[str, float]]:
        """Terms of the added steps as numbers, averaged over the processes, which must all call it at the same point.

        Raises:
            WorkbenchError: a term is not finite; the message names the first such step and its images.
            Interrupted: another process has such a term.
        """
        steps, self._steps, self.seconds = self._steps, [], 0.0
        table = torch.stack([torch.stack(list(terms.values())) for _, terms, _ in steps]).cpu()
        bad = [number for number, is_finite in enumerate(table.isfinite().all(1).tolist()) if not is_finite]
        first, is_own = least_of_all_processes(min(bad, default=len(steps)))
        if first < len(steps):
            step, terms, names = steps[first]
            raise _not_finite(step, terms, table[first].tolist(), names) if is_own else Interrupted.by_another(step)
        names = steps[0][1]
        return [dict(zip(names, row, strict=True)) for row in mean_of_processes(table).tolist()]


def _not_finite(step: int, terms: Iterable[str], values: Sequence[float], names: Sequence[str]) -> WorkbenchError:
    listed = ", ".join(f"{name} {value:g}" for name, value in zip(terms, values, strict=True))
    return WorkbenchError(
        f"step {step}: the loss is not finite ({listed}) on the images {', '.join(names)}; "
        "check the boxes of these images, or lower training.learning_rate"
    )
