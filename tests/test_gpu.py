"""A GPU computes the same values as the CPU, trains, and resumes its trainings; run with ``make test-gpu``.

Tolerances are relative to the largest entry of the compared tensor. All tests are in single precision without TF32,
except the training in bfloat16.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests import samples
from tests.samples import CANVAS, STRIDES, level_shapes, make_batch
from tests.trainings import train_experiment
from workbench.assigners.atss import assign_atss
from workbench.boxes import aligned_giou, aligned_iou, locations_in_images, pairwise_iou, pyramid_points
from workbench.detectors import Predictions, build_detector
from workbench.detectors.postprocess import postprocess
from workbench.detectors.vfnet import star_offsets
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.deform import back_ends, deform_conv2d
from workbench.layers.necks import FPN
from workbench.losses.classification import CLASSIFICATION_LOSSES
from workbench.runs.results import scale_folder
from workbench.settings.catalog import load_row
from workbench.settings.data import ImageSize
from workbench.settings.ids import run_id
from workbench.settings.variant import Variant
from workbench.support.provenance import device_name

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device", "no_tf32")]

VALUE, GRADIENT = 1e-5, 1e-4
LOSS, LOSS_GRADIENT = 1e-4, 1e-3
"""Tolerances of a whole detector, which accumulates rounding errors."""
TRAINING = 5e-4
"""Tolerance of the losses in a training of eight steps. Rounding changes them by 1e-5, exchanged moments by 2e-3."""
SHAPES = level_shapes(*CANVAS)
SIZES = torch.tensor(samples.SIZES)
CLASSES = 6
WORKBENCH = Path(sys.executable).parent / "workbench"


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


def random(*shape, low=0.0, high=1.0, seed=0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_boxes(*shape, seed=0):
    corner = random(*shape, 2, high=80, seed=seed)
    return torch.cat([corner, corner + random(*shape, 2, low=10, high=60, seed=seed + 1)], dim=-1)


def noise_batch():
    """Two images of noise, of different sizes, with objects."""
    return replace(make_batch((5, 3)), images=normal(2, 3, *CANVAS))


def outcome(function, tensors, device):
    """Outputs of a function or module on a device, and the gradients of a weighted sum of the outputs, by name."""
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).to(device)
    leaves = [t.detach().clone().to(device).requires_grad_() for t in tensors]
    found = function(*leaves)
    outputs = [found] if isinstance(found, Tensor) else list(found)
    sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape).to(device)).sum() for y in outputs).backward()
    gradients = {f"gradient of input {i}": leaf.grad for i, leaf in enumerate(leaves)}
    if isinstance(function, nn.Module):
        gradients |= {f"gradient of {name}": p.grad for name, p in function.named_parameters()}
    return {f"output {i}": y for i, y in enumerate(outputs)}, gradients


def assert_close(found, expected, tolerance):
    """Compare two dictionaries of tensors; the first may be on any device."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = value.detach().abs().max().clamp(min=1e-9)
        distance = float((found[name].detach().cpu() - value.detach()).abs().max() / size)
        assert distance <= tolerance, f"{name} differs by {distance:.1e} of its largest entry"  # NaN does not pass


def assert_agrees(function, tensors, device, value=VALUE, gradient=GRADIENT):
    (values, gradients), (there, gradients_there) = (outcome(function, tensors, d) for d in ("cpu", device))
    assert there["output 0"].device.type == device.type
    assert_close(there, values, value)
    assert_close(gradients_there, gradients, gradient)


# -------------------------------------------------------------------------------------------- operator by operator


@pytest.mark.parametrize("back_end", ["sample", "torchvision", "mmcv"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (5, 9), (24, 32)])
def test_deformable_convolution_agrees_with_the_cpu(device, back_end, masked, rows, columns):
    if back_end not in back_ends(device):
        pytest.skip(f"{back_end} is not installed with operators for this device")
    # Not on the lattice, since the gradient is not defined there; one tap samples far outside.
    offset = random(2, 18, rows, columns, low=-3, high=3).floor() + random(2, 18, rows, columns, low=0.05, high=0.95)
    offset[0, 4] = 1e6
    tensors = [normal(2, 8, rows, columns), offset, normal(6, 8, 3, 3, seed=1)]
    if masked:
        tensors.append(random(2, 9, rows, columns))
    assert_agrees(lambda *t: deform_conv2d(*t, back_end=back_end), tensors, device)


@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        (aligned_iou, (random_boxes(50), random_boxes(50, seed=2))),
        (pairwise_iou, (random_boxes(2, 20), random_boxes(2, 30, seed=2))),
        (aligned_giou, (random_boxes(50), random_boxes(50, seed=2))),
        (lambda a, b: aligned_giou(a[:, None], b), (random_boxes(20), random_boxes(30, seed=2))),
        (lambda distances: star_offsets(distances, 16), (random(2, 4, 6, 8, high=90),)),
    ],
    ids=["iou", "pairwise-iou", "giou", "pairwise-giou", "star-offsets"],
)
def test_geometry_agrees_with_the_cpu(device, function, tensors):
    assert_agrees(function, tensors, device)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_classification_losses_agree_with_the_cpu(device, name):
    loss = CLASSIFICATION_LOSSES[name]()
    quality = random(64, CLASSES) * (random(64, CLASSES, seed=1) > 0.7)
    target = quality if loss.wants_quality else quality.ceil()
    assert_agrees(lambda logits: loss(logits, target.to(logits.device)), [4 * normal(64, CLASSES)], device)


class Pyramid(FPN):
    def forward(self, *maps):
        return super().forward(maps)


def test_neck_agrees_with_the_cpu(device):
    torch.manual_seed(0)
    maps = [normal(2, 4 * 2**i, 12 // 2**i, 16 // 2**i) for i in range(3)]
    assert_agrees(Pyramid([4, 8, 16], 8), maps, device)


@pytest.mark.parametrize("norm", ["trained", "frozen"])
def test_backbone_agrees_with_the_cpu(device, norm):
    torch.manual_seed(0)
    settings = load_row("table3", "t3_full_vfl").experiment.backbone.model_copy(update={"norm": norm})
    assert_agrees(ResidualBackbone(settings).train(), [normal(4, 3, 96, 128)], device, LOSS, LOSS_GRADIENT)


def test_points_and_locations_agree_with_the_cpu(device):
    for here, there in zip(*(pyramid_points(SHAPES, STRIDES, d) for d in ("cpu", device)), strict=True):
        assert there.device.type == device.type
        assert torch.equal(here, there.cpu())
    assert torch.equal(
        locations_in_images(SHAPES, STRIDES, SIZES), locations_in_images(SHAPES, STRIDES, SIZES.to(device)).cpu()
    )


def test_assignment_is_identical(device):
    """The boxes have no ties, which devices may break differently."""

    def assign(device):
        batch = noise_batch().to(device)
        inside = locations_in_images(SHAPES, STRIDES, batch.sizes)
        points = pyramid_points(SHAPES, STRIDES, device)
        return assign_atss(points, [4.0 * stride for stride in STRIDES], batch.boxes, batch.valid, inside).index.cpu()

    expected = assign("cpu")
    assert (expected >= 0).sum() > 10
    assert torch.equal(assign(device), expected)


@pytest.mark.parametrize("centerness", [False, True])
def test_post_processing_agrees_with_the_cpu(device, centerness):
    locations = sum(rows * columns for rows, columns in SHAPES)
    # Scores at equal distances, in random order: rounding decides neither their order nor the threshold.
    order = torch.randperm(2 * locations * CLASSES, generator=torch.Generator().manual_seed(0))
    logits = torch.linspace(-6, 2, len(order))[order].view(2, locations, CLASSES)
    boxes, quality = random_boxes(2, locations), normal(2, locations)

    def found(device):
        there = [t.to(device) for t in (logits, boxes, quality)]
        points = pyramid_points(SHAPES, STRIDES, device)
        predictions = Predictions(there[0], there[1], points, SHAPES, STRIDES, quality=there[2] if centerness else None)
        # Few candidates per level, so that their choice matters.
        variant = Variant(image=ImageSize(long=128, short=96), candidates=40)
        return postprocess(predictions, SIZES.to(device), variant)

    for here, there in zip(found("cpu"), found(device), strict=True):
        assert len(here.scores) > 20
        assert torch.equal(there.labels.cpu(), here.labels)
        assert torch.equal(there.boxes.cpu(), here.boxes)
        assert_close({"scores": there.scores}, {"scores": here.scores}, VALUE)


def test_equal_scores_come_in_the_same_order(device):
    """An oracle gives scores of 1; ties occur in the choice of candidates and in NMS."""
    locations = sum(rows * columns for rows, columns in SHAPES)
    logits, boxes = torch.full((2, locations, CLASSES), torch.inf), random_boxes(2, locations)

    def found(device):
        points = pyramid_points(SHAPES, STRIDES, device)
        predictions = Predictions(logits.to(device), boxes.to(device), points, SHAPES, STRIDES)
        variant = Variant(image=ImageSize(long=128, short=96), candidates=40)
        return postprocess(predictions, SIZES.to(device), variant)

    for here, there in zip(found("cpu"), found(device), strict=True):
        assert torch.equal(there.labels.cpu(), here.labels)
        assert torch.equal(there.boxes.cpu(), here.boxes)


# ------------------------------------------------------------------------------------------------------- training


def training_step(table, row, device):
    """Loss terms and gradients of an untrained detector."""
    torch.manual_seed(0)
    detector = build_detector(load_row(table, row).experiment)
    for name, parameter in detector.named_parameters():
        if name.endswith("bn3.weight"):  # zero at the start, which would hide the gradients behind it
            nn.init.ones_(parameter)
    detector.to(device).train()
    terms = detector.loss(noise_batch().to(device))
    sum(terms.values()).backward()
    return terms, {name: p.grad for name, p in detector.named_parameters()}


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("table3", "t3_full_vfl"),
        ("table3", "t3_fcos_atss"),
        *(("table5", f"t5_{family}_vfl") for family in ("atss", "retinanet", "foveabox", "reppoints")),
        ("gfl_table3", "gfl3_qfl_dfl"),
    ],
)
def test_a_training_step_agrees_with_the_cpu(device, table, row):
    terms, gradients = training_step(table, row, "cpu")
    terms_there, gradients_there = training_step(table, row, device)
    assert_close(terms_there, terms, LOSS)
    assert_close(gradients_there, gradients, LOSS_GRADIENT)


@pytest.mark.parametrize(
    ("table", "row"), [("table3", "t3_full_vfl"), *(("table5", f"t5_{f}_vfl") for f in ("retinanet", "foveabox"))]
)
def test_predictions_and_assignment_do_not_wait(device, table, row):
    """``test_fake_gpu`` has the other assigners."""
    if device.type != "cuda":
        pytest.skip("a CPU has nothing to wait for")
    detector, batch = build_detector(load_row(table, row).experiment).to(device), noise_batch().to(device)
    detector.assign(detector.predict(batch.images), batch)  # libraries are loaded
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        detector.assign(detector.predict(batch.images), batch)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def with_training(experiment, **settings):
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=settings)})


def losses_of(folder):
    with (folder / "train.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_bf16_trains(tiny_experiment, tiny_data, tmp_path):
    train_experiment(with_training(tiny_experiment, precision="bf16"), tmp_path, tiny_data, seed=0)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model.safetensors").values())
    losses = losses_of(tmp_path)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_losses(tiny_experiment, tiny_data, tmp_path):
    for name in ("a", "b"):
        train_experiment(tiny_experiment, tmp_path / name, tiny_data, seed=0)
    assert losses_of(tmp_path / "a") == pytest.approx(losses_of(tmp_path / "b"), rel=TRAINING)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    if not all(torch.equal(a[key], b[key]) for key in a):
        warnings.warn("two trainings of one seed agree within rounding on this device, not to the bit", stacklevel=1)


def state_as(file, experiment):
    """Let a checkpoint of a shorter training pass as one of an experiment that is in progress."""
    content = torch.load(file, map_location="cpu")
    content["identity"]["run"], content["final_facts"] = run_id(experiment), None
    torch.save(content, file)


def run_training(experiment, checkpoints, results, data, on_cpu):
    """Lines of ``workbench train``, in a process that sees the machine's GPUs or none, and the training's folder.

    ``checkpoints`` are those that the training resumes from, if any.
    """
    training = scale_folder(results, "mini").run(run_id(experiment)).training(0)
    training.run.write_experiment(experiment)
    if checkpoints:
        shutil.copytree(checkpoints, training.checkpoints)
        state_as(training.checkpoints / "last.pt", experiment)
    environment = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"} | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    command = [WORKBENCH, "train", "--run", training.folder.parent, "--data-root", data]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    used = json.loads(training.facts.read_text())["device"]
    assert "thread(s)" in used if on_cpu else used == device_name()
    return said.stderr, training


@pytest.mark.parametrize("first_on_cpu", [False, True], ids=["gpu-to-cpu", "cpu-to-gpu"])
def test_a_training_is_resumed_on_another_device(tiny_experiment, tiny_data, tmp_path, first_on_cpu):
    """The second epoch starts from the first epoch's checkpoint, and the losses are as on a single device."""
    one_epoch, two_epochs = (with_training(tiny_experiment, epochs=epochs) for epochs in (1, 2))
    train_experiment(one_epoch, tmp_path / "one", tiny_data, seed=0)
    shutil.copytree(tmp_path / "one" / "checkpoints", tmp_path / "seed0" / "checkpoints")
    state_as(tmp_path / "seed0" / "checkpoints" / "last.pt", two_epochs)
    train_experiment(two_epochs, tmp_path / "seed0", tiny_data, seed=0)
    _, first = run_training(one_epoch, None, tmp_path, tiny_data, on_cpu=first_on_cpu)
    steps = len(losses_of(first.folder))
    said, second = run_training(two_epochs, first.checkpoints, tmp_path, tiny_data, on_cpu=not first_on_cpu)
    assert f"resumed from the checkpoint at step {steps}" in said
    assert losses_of(second.folder) == pytest.approx(losses_of(tmp_path / "seed0"), rel=TRAINING)


def test_two_jobs_take_two_gpus(device, tmp_path):
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        pytest.skip("fewer than two CUDA devices")
    code = """
import sys
from pathlib import Path
import torch
from workbench.support.devices import reserved_gpus
with reserved_gpus(1, Path(sys.argv[1])):
    print(torch.cuda.device_count(), torch.cuda.get_device_properties(0).uuid, flush=True)
    sys.stdin.read()
"""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    taken = [job.stdout.readline().split() for job in jobs]
    for job in jobs:
        job.communicate(timeout=60)
    assert [count for count, _ in taken] == ["1", "1"]
    assert taken[0][1] != taken[1][1]
