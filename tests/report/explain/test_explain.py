"""What the notebooks draw: losses, stars and assignments against independent computations, tables as written."""

import io
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import workbench
from workbench.data.embedded import draw_data_set
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.report import explain_assignment, explain_losses, explain_results, explain_star
from workbench.report.explain.pictures import load_picture
from workbench.report.tables.table import TableRow, write_table
from workbench.settings.data import EmbeddedData
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
        detector.head.box_out.weight.mul_(20)  # boxes that differ
    return detector


@pytest.fixture(scope="module")
def atss(detector, picture):
    return explain_assignment.assigned_by(detector, picture.batch)


def test_losses_and_gradients_are_those_of_the_formulas():
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
        by_p = (formula(p + 1e-6) - formula(p - 1e-6)) / 2e-6
        np.testing.assert_allclose(gradients, by_p * p * (1 - p), rtol=1e-5, atol=1e-8)  # dp/dlogit = p (1 - p)
    weights = explain_losses.weights(QualityFocalLoss(), torch.from_numpy(p), 0.3)
    np.testing.assert_allclose(weights, (0.3 - p) ** 2, rtol=1e-9)


def test_a_drawing_is_a_picture_of_the_same_bytes():
    first, again = (explain_losses.draw_weighting({"focal": FocalLoss()}, (0.3,)) for _ in range(2))
    data, size = first._repr_png_()
    assert data == again.png
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == 1400
    assert size["width"] == 672
    assert repr(first) == repr(again)


def test_the_star_is_what_the_star_convolution_received(detector, picture):
    """Value by value, for a cell of each star: offset + grid, in pixels, and by hand from the initial box."""
    seen = []
    hook = detector.head.box_star.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    stars = explain_star.trained_stars(detector, picture)
    hook.remove()
    assert len(stars) == 3
    drawn = explain_star.draw_stars(picture, stars).figure.axes
    for star, axis in zip(stars, drawn, strict=True):
        x, y = star.cell.tolist()
        row, column = round(y / star.stride), round(x / star.stride)
        offset = seen[star.level - 3][0, :, row, column].tolist()
        taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        expected = [
            (x + (dx + offset[2 * tap + 1]) * star.stride, y + (dy + offset[2 * tap]) * star.stride)
            for tap, (dy, dx) in enumerate(taps)
        ]
        np.testing.assert_allclose(star.points, expected, atol=1e-4)
        x1, y1, x2, y2 = star.initial.tolist()
        of_box = [(at_x, at_y) for at_y in (y1, y, y2) for at_x in (x1, x, x2)]
        np.testing.assert_allclose(star.points, of_box, atol=1e-3)
        line = next(line for line in axis.lines if line.get_label() == "sampled point")
        np.testing.assert_allclose(np.stack(line.get_data(), axis=1), of_box, atol=1e-3)
        table = explain_star.taps(star)
        np.testing.assert_allclose(table["offset dy"], offset[0::2], atol=0.0051)
        np.testing.assert_allclose(table["x (px)"], np.array(of_box)[:, 0], atol=0.0051)
    assert len({tuple(star.initial.tolist()) for star in stars}) == 3


def test_a_star_by_hand(detector, picture):
    stars = explain_star.hand_made_stars(detector, picture)
    assert len(stars) == 3
    for star in stars:
        x1, y1, x2, y2 = star.initial.tolist()
        x, y = star.cell.tolist()
        np.testing.assert_allclose(star.points[[0, 4, 8]], [(x1, y1), (x, y), (x2, y2)], atol=1e-3)
        assert star.quality[0] < 0.7 < 0.85 < star.quality[1]
        left, top, right, bottom = star.target.tolist()
        assert left < x < right
        assert top < y < bottom


def test_counted_cells_are_the_assigners(atss, detector, picture):
    with torch.no_grad():
        predictions = detector.predict(picture.batch.images)
        index = detector.assign(predictions, picture.batch).index[0]
    assert len(atss.cells) == (index >= 0).sum()
    points = torch.cat(list(predictions.points))
    for line in atss.cells.itertuples():
        assert index[((points == torch.tensor([line.x, line.y])).all(1) & (index == line.object))].numel() >= 1
    table = explain_assignment.count_cells(picture, {"ATSS": atss})
    counts = table["ATSS"].str.findall(r"(\d+) on").map(lambda found: sum(map(int, found)))
    assert counts.tolist() == [(index == number).sum().item() for number in range(len(picture.names))]


def test_anchors_of_a_cell_are_one_cell(picture):
    retinanet = workbench.build_detector(workbench.load_experiment("table5", "t5_retinanet_vfl"))
    rule = explain_assignment.assigned_by(retinanet, picture.batch)
    assert [len(at) for at in rule.points] == [192, 48, 12, 4, 1]
    assert rule.cells["anchors"].max() > 1
    assert not rule.cells.duplicated(["level", "x", "y", "object"]).any()


def test_atss_candidates_explain_what_is_taken(atss, picture, experiment):
    for number in range(len(picture.names)):
        frame = explain_assignment.atss_candidates(picture, atss, number, experiment.head.anchor_scale)
        assert frame.groupby("level").size().tolist() == [9, 9, 9, 4, 1]
        mean, deviation = np.mean(frame["iou"]), np.std(frame["iou"], ddof=1)
        assert math.isclose(frame.attrs["threshold"], mean + deviation, rel_tol=1e-9)
        taken = frame["state"] == "taken"
        assert taken.sum() == (atss.cells["object"] == number).sum()
        assert (frame.loc[taken, "iou"] >= mean + deviation - 1e-6).all()
        low = frame["state"] == "IoU too low"
        assert (frame.loc[low, "iou"] < mean + deviation).all()
        assert (frame.loc[~low, "iou"] >= mean + deviation - 1e-6).all()


def test_pictures_of_a_data_set_in_cocos_layout(tmp_path, experiment, picture):
    """The same picture, drawn or read, but for what JPEG makes of it; numbers count on from the first again."""
    draw_data_set(EmbeddedData(train_images=1, val_images=10), tmp_path / "data", processes=1)
    read = load_picture("mini", experiment.image, str(tmp_path / "data"), number=8)
    assert read.names == picture.names
    torch.testing.assert_close(read.boxes, picture.boxes, rtol=0, atol=1e-4)
    assert np.abs(read.pixels.astype(int) - picture.pixels).mean() < 8
    count = sum(len(load_picture("mini", experiment.image, str(tmp_path / "data"), n).names) > 0 for n in (0, 9, 99))
    assert count == 3
    with pytest.raises(WorkbenchError, match="scale coco draws no pictures: set DATA"):
        load_picture("coco", experiment.image)


def test_results_as_the_pipeline_writes_them(tmp_path):
    def measured(ap, seed):
        return {"AP": ap, "AP50": 0.5, "AP75": None, "APS": 0.1, "APM": 0.1, "APL": 0.1} | {
            "provenance": {"seed": seed, "code_digest": "1"}
        }

    rows = [
        TableRow(
            "a", {"model": "raw", "VFL": False}, {"AP": 39.0}, "raw-1", "", (measured(0.30, 0), measured(0.32, 1))
        ),
        TableRow("b", {"model": "full", "VFL": True}, {"AP": 41.0}, "full-2", "", (measured(0.2, 0),)),
        TableRow("c", {"model": "other", "VFL": True}, {}, "other-3"),
        TableRow("d", {"model": "book", "VFL": None}, {"AP": 50.0}, ""),
        TableRow("e", {"model": None, "VFL": False}, {}, "raw-1"),
    ]
    write_table("Table", rows, tmp_path / "tables" / "table3.csv", tmp_path / "tables" / "table3.md")
    (tmp_path / "tables" / "gfl_table3.csv").write_bytes((tmp_path / "tables" / "table3.csv").read_bytes())
    tables = explain_results.read_tables(tmp_path)
    assert list(tables) == ["table3", "gfl_table3"]
    table = tables["table3"]
    assert list(table.index) == ["raw", "full, VFL", "other, VFL", "book", "e"]
    shown = explain_results.compare(table)
    assert list(shown["measured", "AP"]) == ["31.00", "20.00", "not run", "-", "not run"]
    assert list(shown["published", "AP"]) == ["39.0", "41.0", "-", "50.0", "-"]
    axes = explain_results.draw_ap("table3", table).figure.axes
    said = [[text.get_text() for text in axis.texts] for axis in axes]
    assert said == [["31.0  (1)", "20.0  (2)", "not run", "not run"], ["39.0  (2)", "41.0  (1)", "-", "-"]]
    with_interval = table.assign(AP_low=["29.00", "18.50", "not run", "-", "x"], AP_high="32.00")
    assert list(explain_results.compare(with_interval)["measured"]) == [
        "AP",
        "AP50",
        "AP75",
        "AP_std",
        "AP_low",
        "AP_high",
    ]
    ends = explain_results.draw_ap("table3", with_interval).figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(ends[1], [(18.5, 1), (32, 1)])
    with warnings.catch_warnings(action="error"):
        explain_results.draw_ap("rehearsed", table.iloc[:1].assign(AP="0.00"))
    ends = [patch.get_x() + patch.get_width() for patch in axes[0].patches]
    assert ends[:2] == [31.0, 20.0]

    log = pd.DataFrame({"step": [10, 20], "epoch": [1, 2], "loss": [2.0, 1.0]})
    for seed in (0, 1):
        (tmp_path / "runs" / "raw-1" / f"seed{seed}").mkdir(parents=True)
        log.to_csv(tmp_path / "runs" / "raw-1" / f"seed{seed}" / "train.csv", index=False)
    curves = explain_results.read_curves(tmp_path, table)
    assert {name: len(frames) for name, frames in curves.items()} == {"raw": 2}
    assert explain_results.draw_curves(curves, "Training").png.startswith(b"\x89PNG")
