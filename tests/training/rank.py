"""Processes of a step, for tests: python -m tests.training.rank CASES OUT RANKS …

For each number of ranks, as many processes compute their shares of the step as a training does. Each process saves the
terms and gradients of each case in OUT.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from workbench.data.batch import Batch
from workbench.detectors import build_detector
from workbench.settings.catalog import find_row, load_table
from workbench.settings.experiment import Experiment
from workbench.settings.files import table_names
from workbench.training.processes import _free_port
from workbench.training.state import Machine, plan_steps
from workbench.training.step import CanvasLosses, add_gradients

FAMILIES = {
    "vfnet": "t3_full_vfl",
    "fcos_atss": "t3_fcos_atss",
    "atss": "t5_atss_vfl",
    "gfl": "gfl3_qfl_dfl",
    "retinanet": "t5_retinanet_vfl",
    "foveabox": "t5_foveabox_vfl",
    "reppoints": "t5_reppoints_vfl",
}
"""Name of a family → row whose experiment has it."""
CANVASES, CANVAS = 4, 2
WAYS = ((torch.float64, None), (torch.float64, 1), (torch.float32, None))
"""Precision, and number of canvases in memory at a time."""
SIZES = ((96, 96), (64, 96), (96, 64), (64, 64))  # height and width of the canvases


def make_canvases(classes: int, count: int, images: int, sizes: tuple = SIZES, dtype=torch.float32) -> list[Batch]:
    """Canvases of noise with one to three objects per image; the second and the last canvas have no object."""
    rng = torch.Generator().manual_seed(5)
    canvases = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        corner = torch.rand(images, 3, 2, generator=rng) * torch.tensor([width, height]) * 0.4
        sides = 20 + torch.rand(images, 3, 2, generator=rng) * torch.tensor([width, height]) * 0.3
        valid = torch.ones(images, 3, dtype=torch.bool)
        valid[0, 2 - number % 2 :] = False
        if number in (1, count - 1) and count > 1:
            valid[:] = False
        boxes = torch.cat([corner, corner + sides], dim=-1) * valid.unsqueeze(-1)
        canvases.append(
            Batch(
                images=torch.randn(images, 3, height, width, generator=rng).to(dtype),
                boxes=boxes.to(dtype),
                labels=torch.randint(classes, (images, 3), generator=rng) * valid,
                valid=valid,
                sizes=torch.tensor([(height, width - 32 * (image % 2)) for image in range(images)]),
                original_sizes=torch.tensor([(height, width)] * images),
                image_ids=tuple(range(images)),
                file_names=tuple(f"{number}-{image}" for image in range(images)),
            )
        )
    return canvases


def family_experiment(family: str) -> Experiment:
    """Experiment at scale mini with the canvases of this file, and with fixed statistics of BatchNorm."""
    experiment = find_row(FAMILIES[family]).experiment
    training = experiment.training.model_copy(update={"batch": CANVASES * CANVAS, "canvas": CANVAS})
    backbone = experiment.backbone.model_copy(update={"norm": "frozen"})
    return experiment.model_copy(update={"training": training, "backbone": backbone})


def family_detector(experiment: Experiment, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    detector = build_detector(experiment)
    for name, parameter in detector.named_parameters():
        if name.endswith("bn3.weight"):  # zero at the start, which would hide the gradients behind it
            nn.init.ones_(parameter)
    return detector.train().to(dtype)


def share_of_step(
    detector: nn.Module, experiment: Experiment, canvases: list[Batch], rank: int, ranks: int, at_a_time: int | None
) -> dict[str, Tensor]:
    """Add this rank's share of the gradients, as in a training; return the terms of its canvases."""
    plan = plan_steps(experiment.training, Machine(ranks, at_a_time))
    module = CanvasLosses(detector)
    fabric = SimpleNamespace(
        global_rank=rank,
        device=torch.device("cpu"),
        backward=lambda total: total.backward(),
        no_backward_sync=lambda m, enabled: m.no_sync() if enabled and ranks > 1 else contextlib.nullcontext(),
    )
    state = SimpleNamespace(
        fabric=fabric,
        plan=plan,
        detector=detector,
        module=DistributedDataParallel(module) if ranks > 1 else module,
        experiment=experiment,
        training=SimpleNamespace(seed="0"),
        step=0,
    )
    assert plan.ranks == ranks
    return add_gradients(state, canvases[rank * plan.canvases : (rank + 1) * plan.canvases])


def family_cases(rank: int, ranks: int) -> Iterator[tuple[tuple, dict, dict]]:
    """Each family in both precisions, and with one canvas in memory at a time."""
    for family in FAMILIES:
        for dtype, at_a_time in WAYS:
            experiment = family_experiment(family)
            detector = family_detector(experiment, dtype)
            canvases = make_canvases(experiment.data.classes, CANVASES, CANVAS, dtype=dtype)
            terms = share_of_step(detector, experiment, canvases, rank, ranks, at_a_time)
            gradients = {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}
            yield (family, dtype, at_a_time), terms, gradients


def network_of(experiment: Experiment) -> str:
    return f"{experiment.backbone} {experiment.head} {experiment.detector}"


def row_cases(rank: int, ranks: int) -> Iterator[tuple[tuple, dict, dict]]:
    """Each experiment of all tables at scale coco, with random weights, on tiny images; gradients as one norm each."""
    rows = {row.run: row for table in table_names() for row in load_table(table, "coco")[1]}
    last = None
    for run, row in sorted(rows.items(), key=lambda item: network_of(item[1].experiment)):
        training = row.experiment.training
        if training.canvases % ranks:
            continue
        if network_of(row.experiment) != last:
            last = network_of(row.experiment)
            torch.manual_seed(0)
            detector = build_detector(row.experiment).train()
        else:  # the same network with another loss
            with torch.device("meta"):
                detector.objective = build_detector(row.experiment).objective
        detector.zero_grad(set_to_none=True)
        canvases = make_canvases(80, training.canvases, training.canvas_images, sizes=((64, 96), (96, 64)))
        canvases = [replace(c, sizes=c.original_sizes) for c in canvases]
        terms = share_of_step(detector, row.experiment, canvases, rank, ranks, None)
        norm = torch.nn.utils.get_total_norm([p.grad for p in detector.parameters() if p.grad is not None])
        yield (row.id, run), terms, {"all": norm}


CASES: dict[str, Callable] = {"families": family_cases, "rows": row_cases}


def compute(cases: str, rank: int, ranks: int, port: int, out: Path) -> None:
    """Compute the share of one process."""
    torch.set_num_threads(1)
    if ranks > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    results = {}
    for case, terms, gradients in CASES[cases](rank, ranks):
        terms = torch.stack(list(terms.values()))
        if ranks > 1:
            torch.distributed.all_reduce(terms)
        results[case] = terms / ranks, gradients
    torch.save(results, out / f"{ranks}-{rank}.pt")
    if ranks > 1:
        torch.distributed.destroy_process_group()


def main(cases: str, out: Path, numbers: list[int]) -> None:
    """Compute the steps one after another. The processes are copies of this one, so that PyTorch is loaded once."""
    fork = multiprocessing.get_context("fork")
    for ranks in numbers:
        port = _free_port()
        started = [fork.Process(target=compute, args=(cases, rank, ranks, port, out)) for rank in range(ranks)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            sys.exit(1)


def run_ranks(cases: str, numbers: tuple[int, ...], out: Path, timeout: float) -> dict[int, list[dict]]:
    """Number of ranks → results of its processes."""
    command = [sys.executable, "-m", "tests.training.rank", cases, out, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return {n: [torch.load(out / f"{n}-{rank}.pt", weights_only=False) for rank in range(n)] for n in numbers}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(number) for number in sys.argv[3:]])
