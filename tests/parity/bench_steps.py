"""Seconds per training step of our detectors and MMDetection's: python -m tests.parity.bench_steps [ROUNDS]

ResNet-50, two images with 8 objects each, random weights, forward, backward and an SGD step. Prints a table in Markdown.
The two sides take turns, so other work on the machine slows both, but an idle machine is better.

On a GPU: images of 1333×800, seconds by the clock. On a CPU: images of 320×320, seconds of processor time of all threads
together; with OMP_WAIT_POLICY=PASSIVE, threads that wait do not count.
"""

import statistics
import sys
import time
from types import SimpleNamespace

import torch

from tests.parity.comparison import as_theirs, draw_samples
from tests.parity.conftest import open_mmdetection
from workbench.data.transforms import collate
from workbench.detectors import build_detector
from workbench.settings.catalog import load_experiment
from workbench.support.provenance import device_name
from workbench.training.schedule import make_optimiser

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DETECTORS = {  # our table and row, MMDetection's configuration
    "VFNet": ("table5", "t5_vfnet_vfl", "vfnet/vfnet_r50_fpn_1x_coco.py"),
    "RepPoints": ("table5", "t5_reppoints_fl", "reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py"),
    "RetinaNet": ("table5", "t5_retinanet_fl", "retinanet/retinanet_r50_fpn_1x_coco.py"),
    "ATSS": ("table5", "t5_atss_fl", "atss/atss_r50_fpn_1x_coco.py"),
    "FoveaBox": ("table5", "t5_foveabox_fl", "foveabox/fovea_r50_fpn_4xb4-1x_coco.py"),
    "GFL": ("gfl_table3", "gfl3_qfl_dfl", "gfl/gfl_r50_fpn_1x_coco.py"),
}


def our_step(table, row, batch):
    experiment = load_experiment(table, row, "coco")
    detector = build_detector(experiment).train().to(DEVICE)
    if DEVICE == "cpu":  # as in training
        detector.to(memory_format=torch.channels_last)
    optimiser = make_optimiser(experiment.training, detector, 1e-6)

    def step():
        optimiser.zero_grad(set_to_none=True)
        sum(detector.loss(batch).values()).backward()
        optimiser.step()

    return step


def their_step(mm, name, samples):
    config = mm.config(name).model
    config.backbone.init_cfg = None
    model = mm.model(config).train().to(DEVICE)
    images, listed = as_theirs(mm, model, samples)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def step():
        optimiser.zero_grad(set_to_none=True)
        total, _ = model.parse_losses(model(images, listed, mode="loss"))
        total.backward()
        optimiser.step()

    return step


def medians(steps: dict, rounds: int) -> dict:
    """Median seconds of each step; in every round all steps take turns, and the first round does not count."""
    seconds = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = now()
            step()
            if number:
                seconds[name].append(now() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def now() -> float:
    """Processor time; on a GPU the clock, after all work is done."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main(rounds: int) -> None:
    mm: SimpleNamespace = open_mmdetection()
    samples = draw_samples([(320, 320) if DEVICE == "cpu" else (800, 1333)] * 2, [8, 8], seed=3)
    batch = collate(samples).to(DEVICE)
    print(f"Seconds of a training step, median of {rounds}, {device_name()}, torch {torch.__version__}\n")
    print("| detector | ours | MMDetection 3.3.0 | ratio |\n|---|--:|--:|--:|")
    for name, (table, row, config) in DETECTORS.items():
        torch.manual_seed(0)
        seconds = medians({"ours": our_step(table, row, batch), "theirs": their_step(mm, config, samples)}, rounds)
        print(
            f"| {name} | {seconds['ours']:.3f} | {seconds['theirs']:.3f} | {seconds['ours'] / seconds['theirs']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
