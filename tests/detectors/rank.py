"""One process of ``test_distributed``: python rank.py RANK RANKS PORT OUT.

It computes the gradients of a part of a batch and saves them, averaged over ranks as in training. Even images belong
to rank 0, odd images to rank 1; a single process computes the gradients of all images.
"""

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from workbench.data.batch import Batch
from workbench.detectors import build_detector
from workbench.settings.catalog import load_row

ROWS = (
    ("table3", "t3_full_vfl"),
    ("table3", "t3_fcos_atss"),
    ("table5", "t5_atss_vfl"),
    ("gfl_table3", "gfl3_qfl_dfl"),
)
"""Detectors whose normalisers are averaged over processes; other detectors have normalisers per process."""


def whole_batch(last_is_empty: bool) -> Batch:
    """Four images of noise; with ``last_is_empty`` the odd ones have no object."""
    generator = torch.Generator().manual_seed(5)
    corner = torch.rand(4, 3, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 20 + torch.rand(4, 3, 2, generator=generator) * 30], dim=-1)
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[1, 2:] = False
    if last_is_empty:
        valid[1::2] = False
    return Batch(
        images=torch.randn(4, 3, 96, 96, generator=generator),
        boxes=boxes * valid.unsqueeze(-1),
        labels=torch.randint(6, (4, 3), generator=generator) * valid,
        valid=valid,
        sizes=torch.full((4, 2), 96),
        original_sizes=torch.full((4, 2), 96),
        image_ids=(1, 2, 3, 4),
        file_names=("1", "2", "3", "4"),
    )


def part(batch: Batch, rank: int, ranks: int) -> Batch:
    return Batch(**{key: value[rank::ranks] for key, value in vars(batch).items()})


def detector_of(table: str, row: str) -> torch.nn.Module:
    """Detector with fixed statistics of BatchNorm: a part of a batch would have other statistics."""
    experiment = load_row(table, row).experiment
    frozen = experiment.backbone.model_copy(update={"norm": "frozen"})
    torch.manual_seed(0)
    detector = build_detector(experiment.model_copy(update={"backbone": frozen})).train()
    for name, parameter in detector.named_parameters():
        if name.endswith("bn3.weight"):  # zero at the start, which would hide the gradients behind it
            torch.nn.init.ones_(parameter)
    return detector


def main(rank: int, ranks: int, port: str, out: Path) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    results = {}
    for table, row in ROWS:
        for empty in (False, True):
            detector = detector_of(table, row)
            model = DistributedDataParallel(detector) if ranks > 1 else detector
            terms = model(part(whole_batch(empty), rank, ranks))
            sum(terms.values()).backward()
            results[row, empty] = {name: p.grad for name, p in detector.named_parameters()}
    torch.save(results, out / f"{ranks}-{rank}.pt")
    if ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
