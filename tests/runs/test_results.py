"""Paths below ``results/`` that runs share: folders of scales, and drawn data sets."""

from workbench.runs.results import drawn_data, scale_folder
from workbench.settings.catalog import Rehearsal
from workbench.settings.data import EmbeddedData


def test_scales_with_the_same_drawing_share_its_worlds(tmp_path):
    own = EmbeddedData(world="seed")
    assert drawn_data(tmp_path, own, 3) == drawn_data(tmp_path, EmbeddedData(world=3), 3)
    assert drawn_data(tmp_path, own, 3) != drawn_data(tmp_path, EmbeddedData(world="seed", val_images=9), 3)


def test_a_rehearsal_has_its_own_folder(tmp_path):
    assert scale_folder(tmp_path, "mini", Rehearsal(steps=2)).path == tmp_path / "mini-rehearsal"
    assert scale_folder(tmp_path, "mini", Rehearsal()).path == tmp_path / "mini"
    assert {scale_folder(tmp_path, "mini", limits).run("x").scale for limits in (None, Rehearsal(images=2))} == {"mini"}
