"""Explanations in the notebooks: losses, stars and assignments agree with independent computations."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import workbench
from tests.few_images import MINI
from workbench.data.embedded import draw_data_set
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.report.explain import assignment as explain_assignment
from workbench.report.explain import losses as explain_losses
from workbench.report.explain import star as explain_star
from workbench.report.explain.pictures import load_picture
from workbench.runs.results import scale_folder
from workbench.support.errors import WorkbenchError


@pytest.fixture(scope="module")
def experiment():
    return workbench.load_experiment("table3", "t3_full_vfl")


@pytest.fixture(scope="module")
def picture(experiment):
    return load_picture("mini", experiment.image, number=8)


@pytest.fixture(scope="module")
def detector(experiment):
    torch.manual_seed(0)
    detector = workbench.build_detector(experiment).eval()
    with torch.no_grad():
        detector.head.box_out.weight.mul_(20)  # boxes of different sizes
    return detector


@pytest.fixture(scope="module")
def atss(detector, picture):
    return explain_assignment.assigned_by(detector, picture.batch)


def test_losses_and_gradients_agree_with_the_formulas():
    p = np.linspace(0.02, 0.98, 49)

    def bce(p, q):
        return -(q * np.log(p) + (1 - q) * np.log(1 - p))

    formulas = [
        (FocalLoss(), 0.6, lambda p: -0.25 * (1 - p) ** 2 * np.log(p)),
        (FocalLoss(), 0, lambda p: -0.75 * p**2 * np.log(1 - p)),
        (QualityFocalLoss(), 0.6, lambda p: (0.6 - p) ** 2 * bce(p, 0.6)),
        (VarifocalLoss(), 0.6, lambda p: 0.6 * bce(p, 0.6)),
        (VarifocalLoss(), 0, lambda p: -0.75 * p**2 * np.log(1 - p)),
    ]
    for loss, quality, formula in formulas:
        values, gradients = explain_losses.values_and_gradients(loss, torch.from_numpy(p), quality)
        np.testing.assert_allclose(values, formula(p), rtol=1e-9, atol=1e-12)
        slope = (formula(p + 1e-6) - formula(p - 1e-6)) / 2e-6
        np.testing.assert_allclose(gradients, slope * p * (1 - p), rtol=1e-5, atol=1e-8)  # dp/dlogit = p (1 - p)
    weights = explain_losses.weights(QualityFocalLoss(), torch.from_numpy(p), 0.3)
    np.testing.assert_allclose(weights, (0.3 - p) ** 2, rtol=1e-9)


def test_a_figure_drawn_twice_has_the_same_bytes():
    first, second = (explain_losses.draw_weighting({"focal": FocalLoss()}, (0.3,)) for _ in range(2))
    data, size = first._repr_png_()
    assert data == second.png
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == 1400
    assert size["width"] == 672
    assert repr(first) == repr(second)


def test_the_star_shows_the_input_of_the_star_convolution(detector, picture):
    """The points equal offset plus grid in pixels, and the points computed from the initial box."""
    received = []
    hook = detector.head.box_star.register_forward_pre_hook(lambda _, arguments: received.append(arguments[1]))
    stars = explain_star.trained_stars(detector, picture)
    hook.remove()
    assert len(stars) == 3
    drawn = explain_star.draw_stars(picture, stars).figure.axes
    for star, axis in zip(stars, drawn, strict=True):
        x, y = star.location.tolist()
        row, column = round(y / star.stride), round(x / star.stride)
        offset = received[star.level - 3][0, :, row, column].tolist()
        taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        expected = [
            (x + (dx + offset[2 * tap + 1]) * star.stride, y + (dy + offset[2 * tap]) * star.stride)
            for tap, (dy, dx) in enumerate(taps)
        ]
        np.testing.assert_allclose(star.points, expected, atol=1e-4)
        x1, y1, x2, y2 = star.initial.tolist()
        from_box = [(at_x, at_y) for at_y in (y1, y, y2) for at_x in (x1, x, x2)]
        np.testing.assert_allclose(star.points, from_box, atol=1e-3)
        line = next(line for line in axis.lines if line.get_label() == "sampling point")
        np.testing.assert_allclose(np.stack(line.get_data(), axis=1), from_box, atol=1e-3)
        table = explain_star.taps(star)
        np.testing.assert_allclose(table["offset dy"], offset[0::2], atol=0.0051)
        np.testing.assert_allclose(table["x (px)"], np.array(from_box)[:, 0], atol=0.0051)
    assert len({tuple(star.initial.tolist()) for star in stars}) == 3


def test_example_stars_are_on_the_initial_box_and_inside_the_object(detector, picture):
    stars = explain_star.example_stars(detector, picture)
    assert len(stars) == 3
    for star in stars:
        x1, y1, x2, y2 = star.initial.tolist()
        x, y = star.location.tolist()
        np.testing.assert_allclose(star.points[[0, 4, 8]], [(x1, y1), (x, y), (x2, y2)], atol=1e-3)
        assert star.quality[0] < 0.7 < 0.85 < star.quality[1]
        left, top, right, bottom = star.target.tolist()
        assert left < x < right
        assert top < y < bottom


def test_the_stars_are_of_a_training_of_this_version(tmp_path, new_run, experiment):
    """The full VFNet is preferred; a run of an earlier version, which is first by its name, is left out."""
    old = scale_folder(tmp_path, "mini").run("a-run")
    old.folder.mkdir(parents=True)
    content = experiment.model_dump(mode="json")
    old.settings.write_text(json.dumps(content | {"data": {"kind": "embedded", "seed": 0}}))
    other = experiment.model_copy(update={"training": experiment.training.model_copy(update={"epochs": 3})})
    for run in (old, new_run(other), new_run(experiment)):
        training = run.training(1000)
        training.folder.mkdir()
        for file in training.results:
            file.touch()
        expected = None if run is old else training
        assert explain_star.find_training_with_stars(tmp_path / "mini", "mini") == expected
    with pytest.raises(
        WorkbenchError, match=r"data\.seed: unknown key; .*; if an earlier version wrote this file, train"
    ):
        old.read_experiment()


def test_counted_locations_agree_with_the_assigner(atss, detector, picture):
    with torch.no_grad():
        predictions = detector.predict(picture.batch.images)
        index = detector.assign(predictions, picture.batch).index[0]
    assert len(atss.locations) == (index >= 0).sum()
    points = torch.cat(list(predictions.points))
    for line in atss.locations.itertuples():
        assert index[((points == torch.tensor([line.x, line.y])).all(1) & (index == line.object))].numel() >= 1
    table = explain_assignment.count_locations(picture, {"ATSS": atss})
    counts = table["ATSS"].str.findall(r"(\d+) on").map(lambda numbers: sum(map(int, numbers)))
    assert counts.tolist() == [(index == number).sum().item() for number in range(len(picture.names))]


def locations_of(picture):
    """Number of locations of each level."""
    height, width = picture.batch.images.shape[-2:]
    return [math.ceil(height / stride) * math.ceil(width / stride) for stride in (8, 16, 32, 64, 128)]


def test_a_location_with_several_anchors_is_counted_once(picture):
    retinanet = workbench.build_detector(workbench.load_experiment("table5", "t5_retinanet_vfl"))
    rule = explain_assignment.assigned_by(retinanet, picture.batch)
    assert [len(at) for at in rule.points] == locations_of(picture)
    assert rule.locations["anchors"].max() > 1
    assert not rule.locations.duplicated(["level", "x", "y", "object"]).any()


def test_states_of_atss_candidates_agree_with_the_assignment(atss, picture, experiment):
    for number in range(len(picture.names)):
        frame = explain_assignment.atss_candidates(picture, atss, number, experiment.head.anchor_scale)
        assert frame.groupby("level").size().tolist() == [min(9, number) for number in locations_of(picture)]
        mean, deviation = np.mean(frame["iou"]), np.std(frame["iou"], ddof=1)
        assert math.isclose(frame.attrs["threshold"], mean + deviation, rel_tol=1e-9)
        positive = frame["state"] == "positive"
        assert positive.sum() == (atss.locations["object"] == number).sum()
        assert (frame.loc[positive, "iou"] >= mean + deviation - 1e-6).all()
        low = frame["state"] == "IoU too low"
        assert (frame.loc[low, "iou"] < mean + deviation).all()
        assert (frame.loc[~low, "iou"] >= mean + deviation - 1e-6).all()


def test_a_drawn_picture_equals_the_picture_in_the_written_data_set(tmp_path, experiment, picture):
    """Only JPEG compression makes a difference; after the last picture the numbers start again."""
    draw_data_set(MINI.model_copy(update={"train_images": 1, "val_images": 10}), tmp_path / "data", processes=1)
    read = load_picture("mini", experiment.image, str(tmp_path / "data"), number=8)
    assert read.names == picture.names
    torch.testing.assert_close(read.boxes, picture.boxes, rtol=0, atol=1e-4)
    assert np.abs(read.pixels.astype(int) - picture.pixels).mean() < 8
    count = sum(len(load_picture("mini", experiment.image, str(tmp_path / "data"), n).names) > 0 for n in (0, 9, 99))
    assert count == 3
    with pytest.raises(WorkbenchError, match="scale coco draws no pictures; set DATA"):
        load_picture("coco", experiment.image)
