"""CPU seconds per training step of our detectors and MMDetection's: python -m tests.parity.bench_steps [ROUNDS]

ResNet-50, two images of 320×320 with 8 objects each, random weights, forward, backward and an SGD step. Prints a table in
Markdown. The seconds are those of all threads together. The two sides take turns, so other work on the machine slows
both, but an idle machine is better. With OMP_WAIT_POLICY=PASSIVE, threads that wait do not count.
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
from workbench.training.schedule import make_optimiser

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
    detector = build_detector(experiment).train().to(memory_format=torch.channels_last)  # as in training on a CPU
    optimiser = make_optimiser(experiment.training, detector, 1e-6)

    def step():
        optimiser.zero_grad(set_to_none=True)
        sum(detector.loss(batch).values()).backward()
        optimiser.step()

    return step


def their_step(mm, name, samples):
    config = mm.config(name).model
    config.backbone.init_cfg = None
    model = mm.model(config).train()
    images, listed = as_theirs(mm, model, samples)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def step():
        optimiser.zero_grad(set_to_none=True)
        total, _ = model.parse_losses(model(images, listed, mode="loss"))
        total.backward()
        optimiser.step()

    return step


def medians(steps: dict, rounds: int) -> dict:
    """Median CPU seconds of each step; in every round all steps take turns, and the first round does not count."""
    seconds = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if number:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(rounds: int) -> None:
    mm: SimpleNamespace = open_mmdetection()
    samples = draw_samples([(320, 320)] * 2, [8, 8], seed=3)
    batch = collate(samples).to("cpu")
    print(
        f"CPU seconds of a training step, median of {rounds}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| detector | ours | MMDetection 3.3.0 | ratio |\n|---|--:|--:|--:|")
    for name, (table, row, config) in DETECTORS.items():
        torch.manual_seed(0)
        seconds = medians({"ours": our_step(table, row, batch), "theirs": their_step(mm, config, samples)}, rounds)
        print(
            f"| {name} | {seconds['ours']:.2f} | {seconds['theirs']:.2f} | {seconds['ours'] / seconds['theirs']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
