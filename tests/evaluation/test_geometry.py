"""Geometry of data sets: a case by hand, numbers in strides, COCO's numbers, and the miniature beside them."""

import dataclasses
import sys

import numpy as np
import pytest

from workbench import cli
from workbench.commands.data_geometry import drawn_images, geometry_lines, split_images
from workbench.commands.data_split import read_all
from workbench.evaluation.geometry import COCO, ResizedImage, geometry
from workbench.settings.catalog import find_row
from workbench.settings.data import ImageSize
from workbench.support.errors import WorkbenchError


def image(*boxes, labels=None, size=(256, 256)):
    return ResizedImage(
        size, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels or [0] * len(boxes), dtype=np.int64)
    )


def test_one_object_that_fits_its_anchor():
    """A 64x64 object around the location (128, 128) of P3: the nine nearest anchors of P3 have the largest IoU."""
    measured = geometry([image((96, 96, 160, 160))], 8.0)
    assert measured.objects == 1
    assert measured.locations == 32**2 + 16**2 + 8**2 + 4**2 + 2**2
    assert measured.levels[0] > 0.5
    assert measured.inside == (49, 49, 49)  # 7x7 locations of stride 8 strictly inside 64 pixels
    assert measured.reach[1] == pytest.approx(4)
    assert measured.near == 0
    assert measured.aspect == (1, 1)
    assert measured.overlapping == 0


def test_a_box_of_twice_the_size_on_anchors_of_twice_the_size_has_the_same_numbers_in_strides():
    small = geometry([image((96, 80, 136, 160), (20, 30, 80, 75))], 8.0)
    large = geometry([image((192, 160, 272, 320), (40, 60, 160, 150), size=(512, 512))], 8.0)
    assert large.levels[1] >= small.levels[0]
    assert large.aspect == pytest.approx(small.aspect)
    assert large.reach == pytest.approx(small.reach, rel=0.25)


def test_only_objects_of_the_same_class_overlap():
    boxes = [(10, 10, 60, 60), (20, 10, 70, 60), (150, 150, 200, 200)]
    assert geometry([image(*boxes, labels=[0, 0, 0])], 8.0).overlapping == pytest.approx(2 / 3)
    assert geometry([image(*boxes, labels=[0, 1, 0])], 8.0).overlapping == 0


def test_images_without_objects_count_as_images():
    measured = geometry([image((96, 96, 160, 160)), image()], 8.0)
    assert measured.objects == 0.5
    with pytest.raises(ValueError, match="no objects"):
        geometry([image()], 8.0)
    with pytest.raises(WorkbenchError, match=r"^photos: no objects; "):
        geometry_lines([image()], 8.0, "photos")


def test_coco_has_the_numbers_that_are_stated(shared_data):
    _, splits, faults = read_all(shared_data / "coco-tiny", print)
    assert not faults
    measured = geometry(split_images(splits, ImageSize(long=1333, short=800), 1000), 8.0)
    for field in dataclasses.fields(COCO):
        stated, value = getattr(COCO, field.name), getattr(measured, field.name)
        assert value == pytest.approx(stated, rel=0.02, abs=0.006), field.name


@pytest.mark.parametrize("scale", ["coco", "mini"])
def test_a_folder_is_measured_at_the_image_size_of_any_scale(shared_data, scale, capsys, monkeypatch, tmp_path):
    root = str(shared_data / "coco-tiny")
    monkeypatch.setattr(sys, "argv", ["workbench", "data", root, "--scale", scale, "--out", str(tmp_path)])
    cli.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("objects of an image  ")]
    assert line.split()[4] == "9.4"  # not those of the drawn images


def test_a_scale_without_a_data_set_names_the_way_out(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["workbench", "data", "--scale", "coco"])
    with pytest.raises(SystemExit, match=r"^workbench: scale coco draws no data set: name the folder of one \("):
        cli.main()


def test_the_miniature_has_the_geometry_of_coco():
    """The treatments of the papers act on these numbers, so that they must be COCO's within a quarter."""
    experiment = find_row("t3_fcos_atss").experiment
    images = drawn_images(experiment.data.drawn_for(0), experiment.image, 200)
    measured = geometry(images, experiment.head.anchor_scale)
    for name in ("reach", "inside", "positives", "aspect"):
        middle = len(getattr(COCO, name)) - 2
        assert getattr(measured, name)[middle] == pytest.approx(getattr(COCO, name)[middle], rel=0.25), name
    assert measured.overlapping == pytest.approx(COCO.overlapping, rel=0.25)
