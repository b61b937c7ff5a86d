"""Padding of the canvases at scale coco, on real images."""

import json

import numpy as np
import pytest

from workbench.data.loader import epoch_plan
from workbench.data.transforms import resized_size
from workbench.settings.catalog import find_row

EPOCHS = 20


@pytest.mark.parametrize(("images", "most"), [(2, 0.05), (4, 0.08), (16, 0.13)])
def test_padding_of_a_canvas_before_rounding_to_strides(shared_data, images, most):
    """160 images of COCO at 1333x800. The varifocal loss counts the padding as background."""
    size = find_row("t3_full_vfl", "coco").experiment.image
    sizes = []
    for split in ("train2017", "val2017"):
        content = json.loads((shared_data / "coco-tiny" / "annotations" / f"instances_{split}.json").read_text())
        sizes += [(image["height"], image["width"]) for image in content["images"]]
    assert len(sizes) == 160
    landscape = np.array([width > height for height, width in sizes])
    resized = np.array([resized_size(*stored, size.long, size.short) for stored in sizes])
    own = whole = 0
    for epoch in range(EPOCHS):
        for canvas in epoch_plan(landscape, images, seed=0, epoch=epoch, canvases=16 // images):
            own += resized[canvas].prod(1).sum()
            whole += images * resized[canvas].max(0).prod()
    share = 1 - own / whole
    assert most / 2 < share < most
