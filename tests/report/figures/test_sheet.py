"""Contact sheet: pictures keep their aspect ratio, and captions stay below their picture."""

import numpy as np
from PIL import Image

from workbench.report.figures.sheet import GAP, SIDE, contact_sheet


def test_pictures_are_in_rows_of_four():
    colours = [(200, 0, 10 * i) for i in range(6)]
    pictures = [Image.new("RGB", (100, 50) if i else (50, 100), colour) for i, colour in enumerate(colours)]
    sheet = np.asarray(contact_sheet(pictures, ["a"] * 6))
    assert sheet.shape[1] == 4 * (SIDE + GAP) + GAP
    found = [np.argwhere((sheet == colour).all(axis=2)) for colour in colours]
    shapes = [tuple(np.ptp(places, axis=0) + 1) for places in found]
    assert shapes == [(SIDE, SIDE // 2)] + [(SIDE // 2, SIDE)] * 5
    assert found[4].min(axis=0).tolist()[1] == GAP
    assert found[4][:, 0].min() > found[0][:, 0].max()


def test_a_long_caption_is_not_wider_than_its_picture():
    sheet = contact_sheet([Image.new("RGB", (100, 50), "red")] * 2, ["W" * 300, ""])
    below = np.asarray(sheet)[GAP + SIDE // 2 :]
    dark = np.argwhere((below < 100).all(axis=2))
    assert len(dark) > 100
    assert dark[:, 1].max() < GAP + SIDE
