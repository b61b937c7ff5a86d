"""Plan of the claims: MDE, seeds and cost, from the measured noise and from the noise of a pilot."""

import pytest

from tests.commands.test_plan import write_training
from tests.evaluation.test_hypotheses import mde_factor
from tests.report.made_up import evaluate
from workbench import cli
from workbench.commands.plan_claims import Noise, describe_claims
from workbench.evaluation.hypotheses import seeds_needed, smallest_detectable
from workbench.settings.catalog import find_row
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError

MINI = PipelineConfig()
VFL = (0.330, 0.431, 0.529, 0.612)
FL = (0.300, 0.410, 0.500, 0.590)


def line(text, statement):
    """Cells of the line about a claim."""
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {statement}")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_noise_of_more_seeds():
    noise = Noise((4.0,))
    assert smallest_detectable(noise.of(9), 6) == pytest.approx(2 * mde_factor(9, 6))
    assert smallest_detectable(noise.of(90), 6) < smallest_detectable(noise.of(9), 6) / 3
    fixed = Noise((2.0, 2.0), 0.5)
    assert fixed.spread == noise.spread == 2
    assert smallest_detectable(fixed.of(10_000)) == pytest.approx(2.8 * 0.5, rel=0.01)  # the images remain


def test_the_spread_is_that_of_the_differences_within_worlds(tmp_path):
    evaluate(tmp_path, t3_raw_vfl=VFL, t3_raw_fl=FL)
    text = describe_claims(MINI, tmp_path, 10)
    spread = 0.4655  # standard deviation of 3.0, 2.1, 2.9 and 2.2
    expected = [
        "0.47",
        f"{spread * mde_factor(10, 5):.1f}",
        "1.1",
        str(seeds_needed(lambda n: spread * mde_factor(n, 5), 1.1)),
    ]
    assert line(text, "the varifocal loss instead of the focal loss")[1:] == expected


def test_a_pilot_of_two_rows_plans_all_claims(tmp_path):
    """Also a comparison that is not a claim has a noise, which is assumed for the claims on the same metric."""
    evaluate(tmp_path, t3_fcos_atss=VFL, t3_raw_fl=FL)
    text = describe_claims(MINI, tmp_path, 10)
    cells = line(text, "the star-shaped convolution raises AP")
    assert cells[1] == "0.47 (assumed)"
    assert cells[3:] == ["0.6", str(seeds_needed(lambda n: 0.4655 * mde_factor(n, 5), 0.6))]
    bound = line(text, "true centerness gains only about 2 AP")
    assert bound[3] == "1.1"  # 3.0 - 1.9
    likeness = line(text, "the varifocal loss is robust to alpha and gamma")
    assert likeness[3:] == ["1.0", str(seeds_needed(lambda n: 0.4655 * mde_factor(n, 3, "equivalent", pairs=4), 1.0))]
    assert line(text, "an IoU-aware score raises AP at an IoU of 0.8")[1:] == ["unknown", "–", "–", "–"]
    assert "An assumed spread is the median of the comparisons that were run." in text


def test_more_planned_seeds_show_smaller_effects(tmp_path):
    evaluate(tmp_path, t3_raw_vfl=VFL, t3_raw_fl=FL)
    few, many = (line(describe_claims(MINI, tmp_path, seeds), "the varifocal loss instead")[2] for seeds in (3, 50))
    assert float(few) > 3 * float(many)


def test_costs_here_and_on_coco(tmp_path):
    for id_ in ("t3_raw_fl", "t3_raw_vfl", "t3_fcos_atss"):
        write_training(tmp_path / "mini", find_row(id_), [50], seconds=360.0)
    text = describe_claims(MINI, tmp_path, 10, images_per_second=20)
    ranking = text[text.index("Table 3, ranking of boxes") : text.index("Table 4")]
    assert "mini: 3 trainings per seed, 18 min; 10 seeds, 3.0 h" in ranking
    assert "coco: 3 trainings per seed, 59 h; 10 seeds, 586 h" in ranking  # 3 × 12 × 117,266 / 20 / 3600
    assert "coco: 1 training per seed, 20 h; 10 seeds, 195 h" in text[text.index("Table 1") : text.index("Table 2")]


def test_unknown_numbers_have_a_note_how_to_get_them(tmp_path):
    for settings in (MINI, PipelineConfig(scale="coco")):
        text = describe_claims(settings, tmp_path, 10)
        assert line(text, "the box refinement raises AP")[1:] == ["unknown", "–", "0.9", "–"]
        assert f"No spread is known: train two rows with two or more seeds, e.g. snakemake --cores all t3_raw_fl t3_fcos_atss --config scale={settings.scale} " in text  # fmt: skip
        assert "The speed on COCO is unknown; give --images-per-second of one GPU." in text
    assert "mini:" not in text


def test_the_command_plans_tables_and_claims(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["workbench", "plan", *arguments, "--results", str(tmp_path)])
        cli.main()
        return capsys.readouterr().out

    assert run("claims").startswith("Claims with 10 seeds, scale mini")
    assert run("claims", "--seeds", "5").startswith("Claims with 5 seeds, scale mini")
    assert "5 trainings (one per run)" in run("table3")
    with pytest.raises(
        SystemExit, match=r"^workbench: --seeds: a table is planned for one seed; leave it out, or plan"
    ):
        run("table3", "--seeds", "5")


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_speed_is_refused(tmp_path, speed):
    with pytest.raises(WorkbenchError, match=r"^--images-per-second .*: not a positive number"):
        describe_claims(MINI, tmp_path, 10, speed)
