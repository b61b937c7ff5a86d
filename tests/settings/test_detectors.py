"""Settings of detector families: distinct names, refused combinations and published thresholds."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from workbench import settings
from workbench.settings.catalog import load_row, load_table
from workbench.settings.detectors import ATSS, AnyDetector, Distribution, FoveaBox, RepPoints, RetinaNet, VFNet
from workbench.settings.ids import hash8, run_id
from workbench.settings.variant import published_variant

DISTRIBUTIONS = [None, *(Distribution(intervals=n, interval=d) for n, d in product((12, 16, 32), (0.5, 1, 2.25)))]
DETECTORS = [
    VFNet(),
    VFNet(refine=False),
    VFNet(star_points="grid"),
    VFNet(refine=False, star_points="grid"),
    VFNet(star=False, refine=False),
    VFNet(star=False, refine=False, centerness=True),
    *(ATSS(centerness=c, distribution=d) for c in (True, False) for d in DISTRIBUTIONS),
    RetinaNet(),
    FoveaBox(),
    RepPoints(),
]


def test_titles_and_hashes_differ_between_detectors():
    assert len({detector.title for detector in DETECTORS}) == len(DETECTORS)
    assert len({hash8(detector) for detector in DETECTORS}) == len(DETECTORS)
    assert all(detector.title.replace("_", "").replace(".", "").isalnum() for detector in DETECTORS)


@pytest.mark.parametrize(
    ("detector", "title"),
    [
        (VFNet(), "vfnet"),
        (VFNet(refine=False), "vfnet_star"),
        (VFNet(refine=False, star_points="grid"), "vfnet_star_grid"),
        (VFNet(star=False, refine=False), "vfnet_raw"),
        (VFNet(star=False, refine=False, centerness=True), "fcos_atss"),
        (ATSS(), "atss"),
        (ATSS(centerness=False), "atss_joint"),
        (ATSS(distribution=Distribution()), "atss_dfl"),
        (ATSS(centerness=False, distribution=Distribution()), "gfl"),
        (ATSS(centerness=False, distribution=Distribution(interval=0.5)), "gfl_n16_d0.5"),
        (ATSS(distribution=Distribution(intervals=14)), "atss_dfl_n14_d1"),
        (RetinaNet(), "retinanet"),
        (FoveaBox(), "foveabox"),
        (RepPoints(), "reppoints"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_titles(detector, title):
    assert detector.title == title


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.title)
def test_settings_survive_json_and_are_frozen(detector):
    kind = TypeAdapter(AnyDetector)
    again = kind.validate_json(detector.model_dump_json())
    assert again == detector
    assert type(again) is type(detector)
    with pytest.raises(ValidationError, match="frozen"):
        detector.family = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(detector)(centernes=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"family": "vfnet", "star": False}, "refine needs star"),
        ({"family": "vfnet", "centerness": True}, "centerness belongs"),
        ({"family": "vfnet", "star": False, "refine": False, "star_points": "grid"}, "star_points: grid needs star"),
        ({"family": "atss", "distribution": {"intervals": 0}}, "greater than or equal to 1"),
        ({"family": "atss", "distribution": {"interval": 0}}, "greater than 0"),
        ({"family": "atss", "distribution": {"n": 16}}, "Extra inputs"),
        ({"family": "atss", "star": True}, "Extra inputs"),
        ({"family": "retinanet", "centerness": True}, "Extra inputs"),
        ({"family": "ssd"}, "does not match any of the expected tags"),
    ],
)
def test_impossible_settings_are_refused(content, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyDetector).validate_python(content)


@pytest.mark.parametrize(
    ("row", "nms"),
    [("atss_fl", 0.6), ("vfnet_vfl", 0.6), ("retinanet_fl", 0.5), ("foveabox_gfl", 0.5), ("reppoints_vfl", 0.5)],
)
def test_published_nms_of_each_family(row, nms):
    resolved = load_row("table5", f"t5_{row}", "coco")
    assert resolved.variant.nms_iou == published_variant(resolved.experiment).nms_iou == nms


def test_the_loss_changes_nothing_else_of_a_detector():
    """Table 5 has three losses per detector. ATSS keeps its centerness, and "GFL" there has no distribution."""
    experiments = {row.id: row.experiment for row in load_table("table5", "coco")[1]}
    for family in ("retinanet", "foveabox", "reppoints", "atss", "vfnet"):
        fl, gfl, vfl = (experiments[f"t5_{family}_{loss}"] for loss in ("fl", "gfl", "vfl"))
        assert fl.model_copy(update={"loss": gfl.loss}) == gfl
        assert fl.model_copy(update={"loss": vfl.loss}) == vfl
        assert len({run_id(e) for e in (fl, gfl, vfl)}) == 3
        assert [e.loss.name for e in (fl, gfl, vfl)] == ["focal", "quality_focal", "varifocal"]
        assert fl.detector.family == family
    assert experiments["t5_atss_gfl"].detector == ATSS(centerness=True, distribution=None)


@pytest.mark.parametrize(
    ("table", "row", "centerness", "distribution"),
    [
        ("gfl_table3", "gfl3_none", True, None),
        ("gfl_table3", "gfl3_qfl", False, None),
        ("gfl_table3", "gfl3_dfl", True, (16, 1)),
        ("gfl_table3", "gfl3_qfl_dfl", False, (16, 1)),
        ("gfl_table1c", "gfl1c_beta0", False, None),
        ("gfl_table2b", "gfl2b_n12", False, (12, 1)),
        ("gfl_table2b", "gfl2b_n18", False, (18, 1)),
        ("gfl_table2c", "gfl2c_delta0p5", False, (16, 0.5)),
        ("gfl_table2c", "gfl2c_delta4", False, (16, 4)),
    ],
)
def test_switches_of_the_gfl_tables(table, row, centerness, distribution):
    wanted = distribution and Distribution(intervals=distribution[0], interval=distribution[1])
    assert load_row(table, row).experiment.detector == ATSS(centerness=centerness, distribution=wanted)


def test_settings_import_nothing_heavy():
    """The pipeline imports all settings at each start."""
    modules = ", ".join(f"workbench.settings.{path.stem}" for path in Path(settings.__file__).parent.glob("[a-z]*.py"))
    heavy = "{'torch', 'torchvision', 'timm', 'numpy', 'pandas', 'scipy', 'matplotlib', 'snakemake'}"
    code = f"import sys, {modules}; heavy = {heavy} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)
