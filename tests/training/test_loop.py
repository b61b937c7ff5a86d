"""The training loop resumes to the bit, reports what is unusual, and explains what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.few_images import CLASSES
from tests.training.stops import log_of, train_until
from tests.trainings import train_experiment
from workbench.runs.load import load_run
from workbench.settings.catalog import load_row
from workbench.settings.data import ImageSize
from workbench.settings.experiment import WeightAveraging
from workbench.settings.postprocessing import PostProcessing
from workbench.settings.variant import Variant
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically
from workbench.training import loop
from workbench.training.processes import open_fabric
from workbench.training.start import initial_detector
from workbench.training.state import Machine, plan_steps


def same_weights(a, b):
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_training_writes_its_files_and_is_repeatable(tiny_experiment, tiny_data, tmp_path):
    for name in ("a", "b"):
        train_experiment(tiny_experiment, tmp_path / name, tiny_data, seed=3)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    rows = log_of(tmp_path / "a")
    assert rows == log_of(tmp_path / "b")
    assert list(rows[0]) == ["step", "epoch", "lr", "loss", "loss_cls", "loss_box_initial", "loss_box", "val_ap"]
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    assert [row["val_ap"] != "" for row in rows].count(True) == tiny_experiment.training.epochs
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    facts = json.loads((tmp_path / "a" / "train.json").read_text())
    assert facts["seed"] == 3
    assert facts["devices"] == 1
    assert len(facts["class_names"]) == CLASSES
    train_experiment(tiny_experiment, tmp_path / "c", tiny_data, seed=4)
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_validation_can_be_left_out_and_changes_nothing(tiny_experiment, tiny_data, tmp_path):
    train_experiment(tiny_experiment, tmp_path / "with", tiny_data)
    settings = tiny_experiment.training.model_copy(update={"validate_every": None})
    train_experiment(tiny_experiment.model_copy(update={"training": settings}), tmp_path / "without", tiny_data)
    assert same_weights(tmp_path / "with", tmp_path / "without")
    with_ap, without = log_of(tmp_path / "with"), log_of(tmp_path / "without")
    assert {row.pop("val_ap") for row in without} == {""} != {row.pop("val_ap") for row in with_ap}
    assert with_ap == without


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_stopped_training_resumes_to_the_same_bits(tiny_experiment, tiny_data, tmp_path, monkeypatch, steps, capsys):
    train_experiment(tiny_experiment, tmp_path / "whole", tiny_data, seed=0)
    train_until(steps, tiny_experiment, tmp_path / "parts", tiny_data)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    capsys.readouterr()
    train_experiment(tiny_experiment, tmp_path / "parts", tiny_data, seed=0)
    assert f"resumed from the checkpoint at step {steps}" in capsys.readouterr().err
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_a_checkpoint_from_a_gpu_resumes_like_one_from_a_cpu(tiny_experiment, tiny_data, tmp_path):
    """On a GPU weights have another memory layout, and so have the moments that the optimiser keeps of them."""
    for name in ("cpu", "gpu"):
        train_until(2, tiny_experiment, tmp_path / name, tiny_data)
    file = tmp_path / "gpu" / "checkpoints" / "last.pt"
    state = torch.load(file)
    for moments in state["optimiser"]["state"].values():
        moments.update({name: value.contiguous() for name, value in moments.items()})
    torch.save(state, file)
    for name in ("cpu", "gpu"):
        train_experiment(tiny_experiment, tmp_path / name, tiny_data, seed=0)
    assert same_weights(tmp_path / "cpu", tmp_path / "gpu")


def test_a_foreign_or_broken_checkpoint_is_refused(tiny_experiment, tiny_data, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "last.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(WorkbenchError, match=r"not a checkpoint of this run .* delete it to start from the beginning"):
        train_experiment(tiny_experiment, tmp_path, tiny_data, seed=0)
    torch.save({"model": {"some": torch.zeros(1)}, "optimiser": {}, "step": 1, "seconds": 1.0}, checkpoint)
    with pytest.raises(WorkbenchError, match="not a checkpoint of this run"):
        train_experiment(tiny_experiment, tmp_path, tiny_data, seed=0)


def test_more_gpus_than_available_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(WorkbenchError, match="2 GPUs requested, but only 1 available; request fewer"):
        open_fabric(2)


def test_a_slurm_job_of_one_task_starts_its_own_processes(monkeypatch):
    facts = {"NTASKS": 1, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NTASKS_PER_NODE": 1}
    for name, value in facts.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert not open_fabric(2).strategy.cluster_environment.creates_processes_externally


def test_a_loss_that_is_not_finite_names_the_images(tiny_experiment, tiny_data, tmp_path):
    wild = tiny_experiment.training.model_copy(update={"learning_rate": 1e18, "optimiser": "sgd", "warmup_steps": 0})
    with pytest.raises(
        WorkbenchError, match=r"step \d+: the loss is not finite .* on the images 0000\d+\.jpg, .*\.jpg; check"
    ):
        train_experiment(tiny_experiment.model_copy(update={"training": wild}), tmp_path, tiny_data, seed=0)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("canvas", "devices", "micro", "expected"),
    [  # ranks, canvases of a rank, canvases at a time
        ("batch", 1, None, (1, 1, 1)),
        ("batch", 8, None, (1, 1, 1)),
        (2, 1, None, (1, 8, 8)),
        (2, 8, None, (8, 1, 1)),
        (2, 3, None, (2, 4, 4)),
        (2, 7, 1, (4, 2, 1)),
        (2, 64, 3, (8, 1, 1)),
        (4, 8, None, (4, 1, 1)),
        (4, 3, 1, (2, 2, 1)),
        (16, 2, None, (1, 1, 1)),
    ],
)
def test_canvases_are_spread_over_the_largest_number_of_devices(tiny_experiment, canvas, devices, micro, expected):
    settings = tiny_experiment.training.model_copy(
        update={"batch": 16, "canvas": canvas, "reference_batch": 8, "learning_rate": 0.01}
    )
    plan = plan_steps(settings, Machine(devices, micro))
    assert (plan.ranks, plan.canvases, plan.at_a_time, plan.learning_rate) == (*expected, 0.02)


def in_canvases(experiment, **settings):
    """Experiment with canvases of two images and fixed statistics of BatchNorm."""
    backbone = experiment.backbone.model_copy(update={"norm": "frozen"})
    training = experiment.training.model_copy(update={"canvas": 2, **settings})
    return experiment.model_copy(update={"backbone": backbone, "training": training})


def test_short_memory_unused_devices_and_another_rate_are_reported(tiny_experiment, tiny_data, tmp_path, capsys):
    experiment = in_canvases(tiny_experiment, epochs=1, reference_batch=16, canvas=4)
    train_experiment(experiment, tmp_path, tiny_data, seed=0, micro_batch=1)
    output = capsys.readouterr().err
    assert "scaled linearly from" in output
    assert "1 of 2 canvases in memory at a time: each image is computed twice" in output
    assert "devices" not in output
    train_experiment(tiny_experiment, tmp_path / "other", tiny_data, devices=8)
    assert "1 of 8 devices: at most 8 on this machine, and each needs equally many canvases; canvases per step: 1, images per canvas: 8" in capsys.readouterr().err  # fmt: skip


def test_memory_for_one_canvas_changes_nothing_but_rounding(tiny_experiment, tiny_data, tmp_path):
    """Neither the running statistics of BatchNorm, although each canvas is computed twice."""
    # SGD: its updates are in proportion to the gradients.
    experiment = in_canvases(tiny_experiment, limit_steps=2, optimiser="sgd", learning_rate=0.1, warmup_steps=0)
    experiment = experiment.model_copy(update={"backbone": tiny_experiment.backbone})
    for name, micro in (("whole", None), ("single", 1), ("three", 3)):
        train_experiment(experiment, tmp_path / name, tiny_data, micro_batch=micro)
    start = initial_detector(experiment, 0).state_dict()
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for name in ("single", "three"):
        other = load_file(tmp_path / name / "model.safetensors")
        for key, value in whole.items():
            update = (value - start[key]).double().norm()
            assert (other[key] - value).double().norm() <= 1e-3 * update, key
    moved = [key for key in whole if key.endswith("num_batches_tracked")]
    assert {int(whole[key]) for key in moved} == {8}  # four canvases in each of two steps


def test_a_batch_that_is_no_whole_number_of_canvases_is_refused(tiny_experiment):
    with pytest.raises(
        ValueError, match=r"training\.batch: 8 images are not a whole number of canvases of 3; change tr"
    ):
        type(tiny_experiment.training).model_validate(tiny_experiment.training.model_dump() | {"canvas": 3})


def test_a_lone_small_image_with_trained_norms_is_reported(tiny_experiment, tiny_data, tmp_path):
    """C5 of 32x32 pixels is a single pixel, of which BatchNorm cannot compute a variance."""
    small = tiny_experiment.model_copy(
        update={
            "image": ImageSize(long=32, short=32),
            "training": tiny_experiment.training.model_copy(update={"batch": 1, "reference_batch": 1}),
        }
    )
    with pytest.raises(
        WorkbenchError, match=r"^0\S+\.jpg: 1 image of 32x32 pixels gives a normalisation layer one val"
    ):
        train_experiment(small, tmp_path, tiny_data)


def without_positives(root, folder):
    """Copy of a data set in which each object is a speck between the locations."""
    shutil.copytree(root, folder)
    for split in ("train2017", "val2017"):
        path = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        for entry in content["annotations"]:
            entry["bbox"], entry["area"] = [1.0, 1.0, 2.0, 2.0], 4.0
        path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("row", ["t3_full_vfl", "t3_raw_fl", "t3_fcos_atss"])
def test_an_epoch_without_a_positive_location_is_reported(tiny_experiment, tiny_data, tmp_path, capsys, row):
    of_row = load_row("table3", row).experiment
    settings = tiny_experiment.training.model_copy(update={"flip": 0.0, "validate_every": 9})
    experiment = tiny_experiment.model_copy(
        update={"detector": of_row.detector, "loss": of_row.loss, "training": settings}
    )
    train_experiment(experiment, tmp_path / "run", without_positives(tiny_data, tmp_path / "data"))
    lines = capsys.readouterr().err
    for epoch in (1, 2):
        assert (
            lines.count(f"epoch {epoch}: no location was positive, so only background was learnt; check the boxes") == 1
        )
    train_experiment(experiment, tmp_path / "other", tiny_data)
    assert "no location was positive" not in capsys.readouterr().err


@pytest.mark.parametrize("swa", [None, WeightAveraging(cycles=1, high=0.004, low=0.0002)], ids=["plain", "averaging"])
def test_validation_images_without_objects_have_no_ap(tiny_experiment, tiny_data, tmp_path, capsys, swa):
    """Neither 0.0 nor a number in the log; the averaging starts from the first epoch."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    settings = tiny_experiment.training.model_copy(update={"swa": swa})
    train_experiment(tiny_experiment.model_copy(update={"training": settings}), tmp_path / "run", root)
    output = capsys.readouterr().err
    assert "step 4: val AP n/a, because the validation images have no objects\n" in output
    assert "val AP 0.0" not in output
    assert ("from the weights of step 4 (val AP n/a)" in output) == (swa is not None)
    assert {row["val_ap"] for row in log_of(tmp_path / "run")} == {""}


@pytest.mark.parametrize(("steps", "reported"), [(9, True), (8, False), (0, False)])
def test_a_warm_up_longer_than_the_schedule_is_reported(tiny_experiment, tiny_data, tmp_path, capsys, steps, reported):
    """A rehearsal is judged by the whole schedule of two epochs of four steps."""
    settings = tiny_experiment.training.model_copy(update={"warmup_steps": steps, "limit_steps": 1})
    train_experiment(tiny_experiment.model_copy(update={"training": settings}), tmp_path, tiny_data)
    line = "warm-up of 9 steps, but the schedule has only 8, so the learning rate never reaches its value; lower train"
    assert (line in capsys.readouterr().err) == reported


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_each_precision_trains_and_is_recorded(tiny_experiment, tiny_data, tmp_path, precision, tf32):
    settings = tiny_experiment.training.model_copy(update={"precision": precision, "limit_steps": 1})
    train_experiment(tiny_experiment.model_copy(update={"training": settings}), tmp_path, tiny_data, seed=0)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model.safetensors").values())
    arithmetic = json.loads((tmp_path / "train.json").read_text())["arithmetic"]
    assert (arithmetic["precision"], arithmetic["deformable_back_end"]) == (precision, "sample")
    assert arithmetic["matmul"]["allow_tf32"] == arithmetic["cudnn"]["allow_tf32"] == tf32


def test_validation_has_the_post_processing_of_the_experiment(tiny_experiment, tiny_data, tmp_path, monkeypatch):
    variants = []

    def detect(detector, data, variant, *_, **__):
        variants.append(variant)
        return []

    monkeypatch.setattr(loop, "detect_data_set", detect)
    stated = PostProcessing(nms="soft", nms_iou=0.65, max_detections=7)
    settings = tiny_experiment.training.model_copy(update={"epochs": 1})
    changes = {"training": settings, "validation": stated}
    train_experiment(tiny_experiment.model_copy(update=changes), tmp_path, tiny_data, seed=0)
    expected = Variant(image=tiny_experiment.image, nms="soft", nms_iou=0.65, max_detections=7)
    assert variants == [expected]


def test_another_number_of_classes_is_refused(tiny_experiment, tiny_data, tmp_path):
    settings = tiny_experiment.model_copy(update={"data": tiny_experiment.data.model_copy(update={"kind": "embedded"})})
    annotations = json.loads((tiny_data / "annotations" / "instances_train2017.json").read_text())
    root = tmp_path / "data"
    annotations["categories"].append({"id": 99, "name": "one more"})
    write_json_atomically(root / "annotations" / "instances_train2017.json", annotations)
    (root / "train2017").symlink_to(tiny_data / "train2017")
    with pytest.raises(
        WorkbenchError, match=rf"{CLASSES + 1} categories, but the scale states data.classes: {CLASSES}"
    ):
        train_experiment(settings, tmp_path / "run", root, seed=0)


def test_a_trained_run_loads_and_refuses_foreign_weights(tiny_experiment, tiny_data, tmp_path, new_run):
    with pytest.raises(WorkbenchError, match=r"experiment\.json"):
        load_run(tmp_path)
    folder = new_run(tiny_experiment).folder
    with pytest.raises(WorkbenchError, match="train this run with seed 0 first"):
        load_run(folder)
    train_experiment(tiny_experiment, folder / "seed0", tiny_data, seed=0)
    run = load_run(folder)
    assert run.category_ids == tuple(category.id for category in tiny_experiment.data.categories)
    assert not run.detector.training
    weights = folder / "seed0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WorkbenchError, match="not the weights of this run"):
        load_run(folder)


def test_another_initialisation_has_other_weights_and_those_of_a_later_seed(tiny_experiment):
    training = tiny_experiment.training.model_copy(update={"initialisation": 1})
    again = tiny_experiment.model_copy(update={"training": training})
    first, placebo, later = (
        initial_detector(experiment, seed).head.box_out.weight
        for experiment, seed in ((tiny_experiment, 3), (again, 3), (tiny_experiment, 100_003))
    )
    assert not torch.equal(first, placebo)
    assert torch.equal(placebo, later)
