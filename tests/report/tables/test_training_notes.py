"""Notes about trainings: different arithmetic, and known differences from released code."""

from dataclasses import replace

import pytest

from tests.report.tables.test_render import FULL, LITERATURE, NOT_RUN, RAW, metrics
from workbench.report import outcomes
from workbench.report.tables.known_differences import FOVEABOX_CLIP, GFL_IOU, GFL_PADDING, known_differences
from workbench.report.tables.render import table_markdown
from workbench.report.tables.training_notes import on_published_weights, on_start
from workbench.settings.catalog import find_row, load_table
from workbench.settings.config import read_config
from workbench.settings.files import table_names
from workbench.support.arithmetic import arithmetic


def trained(precision="fp32", torch="2.11.0", seed=0, **changes):
    """Content of a metrics.json with the facts about a training."""
    facts = arithmetic(precision, "sample")
    for library in ("matmul", "cudnn"):
        facts[library] = facts[library] | {"allow_tf32": precision == "tf32"}
    content = metrics(0.4, seed=seed)
    content["provenance"]["training"] = {"versions": {"torch": torch, "mmcv": "2.1.0"}, "arithmetic": facts | changes}
    return content


def warning(*measured):
    """The warning below a table whose rows have these measurements; None without a warning."""
    rows = [replace(RAW, row=f"row{i}", measured=m if isinstance(m, tuple) else (m,)) for i, m in enumerate(measured)]
    lines = table_markdown("T", [*rows, NOT_RUN, LITERATURE]).splitlines()
    warnings = [line for line in lines if line.startswith("**Warning:**")]
    assert len(warnings) < 2
    return warnings[0] if warnings else None


def test_rows_in_the_same_arithmetic_have_no_warning():
    assert warning(trained(), trained()) is None
    assert warning(trained("tf32"), trained("tf32")) is None


@pytest.mark.parametrize(
    ("measured", "listed"),
    [
        ([trained(), trained("bf16")], "precision: `fp32` in `row0`, `bf16` in `row1`"),
        ([trained(), trained("tf32")], "precision: `fp32` in `row0`, `tf32` in `row1`"),
        ([trained(), trained(cudnn={"allow_tf32": True})], "precision: `fp32` in `row0`, `fp32 with TF32 in convolutions` in `row1`"),
        ([trained(), trained("tf32", matmul={}, cudnn={})], "precision: `fp32` in `row0`, `tf32 with TF32 in nothing` in `row1`"),
        ([trained(), trained(torch="2.9.1")], "torch: `2.11.0` in `row0`, `2.9.1` in `row1`"),
        ([trained(), trained(deformable_back_end="mmcv")], "deformable convolution: `sample` in `row0`, `mmcv` in `row1`"),
        ([trained(), trained(deformable_back_end=None)], None),
        ([trained(), (trained(), trained(torch="2.9.1", seed=1))], "torch: `2.11.0` in `row0`, `row1`, `2.9.1` in `row1`"),
        ([trained(), trained(), trained(torch="2.9.1"), trained(), trained()], "torch: `2.11.0` in all others, `2.9.1` in `row2`"),
        ([trained(), trained(), (trained(), trained(torch="2.9.1")), trained()], "torch: `2.11.0` in `row2`, all others, `2.9.1` in `row2`"),
        ([trained(), trained("bf16", torch="2.9.1")], "precision: `fp32` in `row0`, `bf16` in `row1`; torch: `2.11.0` in `row0`, `2.9.1` in `row1`"),
    ],
)  # fmt: skip
def test_a_warning_names_the_rows_in_another_arithmetic(measured, listed):
    expected = f"**Warning:** these rows were trained in different arithmetic ({listed}). Differences between rows may come from the arithmetic."
    assert warning(*measured) == (expected if listed else None)


def test_versions_of_mmcv_count_only_where_mmcv_is_in_use():
    old, new = trained(deformable_back_end="mmcv"), trained(deformable_back_end="mmcv")
    new["provenance"]["training"]["versions"]["mmcv"] = "2.2.0"
    assert "mmcv: `2.1.0` in `row0`, `2.2.0` in `row1`" in warning(old, new)
    new["provenance"]["training"]["arithmetic"]["deformable_back_end"] = None
    assert warning(old, new) is None


@pytest.mark.parametrize("facts", [None, 3, [], {}, {"arithmetic": 3, "versions": [1]}, {"versions": {"torch": [2]}}])
def test_results_that_state_no_arithmetic_are_not_compared(facts):
    """Results of earlier versions, and files that somebody has edited."""
    other = trained()
    other["provenance"]["training"] = facts
    assert warning(trained(), other) is None
    assert warning(trained(), metrics(0.4)) is None


def test_published_weights_were_trained_elsewhere():
    assert warning(trained(), trained(torch="2.9.1", seed="released")) is None


def test_known_differences_are_listed_with_their_rows():
    rows = [replace(RAW, differences=("one.",)), replace(NOT_RUN, differences=("one.", "two.")), FULL]
    text = table_markdown("T", rows)
    assert (
        "\n\nKnown difference of `t3_raw_fl`, `t3_star_vfl`: one.\n\nKnown difference of `t3_star_vfl`: two.\n" in text
    )
    assert "Known difference" not in table_markdown("T", [RAW, FULL])
    released = replace(FULL, measured=(metrics(0.4, seed="released"),), differences=("one.",))
    assert "Known difference" not in table_markdown("T", [released])


def test_rows_with_known_differences():
    rows_of = {FOVEABOX_CLIP: [], GFL_PADDING: [], GFL_IOU: []}
    for row in (row for table in table_names() for row in load_table(table)[1]):
        for text in known_differences(row.experiment):
            rows_of[text].append(row.id)
    with_distribution = [f"gfl2b_n{n}" for n in (12, 14, 16, 18)]
    with_distribution += [f"gfl2c_delta{delta}" for delta in ("0p5", "1", "2", "4")]
    joint = [f"gfl1c_beta{beta}" for beta in ("0", "1", "2", "2p5", "4")]
    assert rows_of == {
        FOVEABOX_CLIP: ["t5_foveabox_gfl", "t5_foveabox_vfl"],
        GFL_PADDING: [*joint, *with_distribution, "gfl3_qfl", "gfl3_qfl_dfl"],
        GFL_IOU: [*joint, *with_distribution, "gfl3_qfl", "gfl3_dfl", "gfl3_qfl_dfl"],
    }


@pytest.mark.parametrize(("table", "count"), [("table3", 0), ("table5", 1), ("gfl_table3", 2)])
def test_a_table_and_its_page_state_the_known_differences_of_their_rows(tmp_path, table, count):
    outcomes.make_table(table, read_config({}), tmp_path)
    for ending in ("md", "html"):
        assert (tmp_path / "mini" / "tables" / f"{table}.{ending}").read_text().count("Known difference of") == count


@pytest.mark.parametrize(
    ("facts", "remark"),
    [
        ({"publisher": "authors", "weights": "atss_fl_r50_1x"}, "weights of the authors"),
        ({"publisher": "mmdetection"}, "weights of MMDetection, which reports AP 39.4"),
        ({"file": "mine.pth"}, "weights of the file mine.pth"),
        ({}, "published weights"),
        (None, "published weights"),
    ],
)
def test_the_remark_names_the_publisher(facts, remark):
    released = metrics(0.4, seed="released")
    released["provenance"]["training"] = facts
    assert on_published_weights([released], {"authors": 39.3, "mmdetection": 39.4}) == remark


def test_a_row_that_was_trained_here_has_no_remark_on_weights():
    assert on_published_weights([trained()], {"authors": 39.3}) == ""
    assert on_published_weights([], {}) == ""


def test_a_row_that_starts_from_a_trained_detector_says_so(tmp_path):
    """A table of trainings with a start looks otherwise like the table without one."""
    (tmp_path / "mine.pth").write_bytes(b"weights")
    experiment = find_row("t3_full_vfl", init=str(tmp_path / "mine.pth")).experiment
    digest = experiment.init.sha256
    started = trained()
    started["provenance"]["training"]["pretrained"] = {"file": "mine.pth", "sha256": digest * 8}
    assert on_start([started], experiment) == f"starts from the trained detector mine.pth (SHA-256 {digest}…)"
    assert on_start([], experiment) == f"starts from the trained detector (SHA-256 {digest}…)"
    assert on_start([started], find_row("t3_full_vfl").experiment) == ""
    text = outcomes.make_table("table3", read_config({"init": str(tmp_path / "mine.pth")}), tmp_path)
    assert text.count(f"starts from the trained detector (SHA-256 {digest}…)") == 5
