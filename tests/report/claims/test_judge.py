"""Verdicts of claims: effects in both designs, families, placebo, and treatments that cannot act."""

import pytest

from tests.report.made_up import claims, evaluate, judged
from workbench.evaluation.effects import effect_over_worlds
from workbench.report.claims.judge import judge_family, judge_tables, measured_on_disk
from workbench.settings.claims import families, read_claims
from workbench.settings.config import PipelineConfig

MINI = PipelineConfig()


def by_name(table, results, settings=MINI):
    judgements, observed = judge_tables([table], measured_on_disk(settings, results))
    return {j.claim.name: j for j in judgements}, {o.observation.name: o for o in observed}


def test_rows_are_compared_within_worlds(tmp_path):
    """Worlds differ by 10 AP. The difference within each of them is 3 AP, so it is certain."""
    evaluate(tmp_path, t3_raw_vfl=(0.330, 0.431, 0.529), t3_raw_fl=(0.300, 0.400, 0.500))
    judgements, observed = by_name("table3", tmp_path)
    judgement = judgements["component_vfl"]
    assert judgement.verdict.effect.design == "worlds"
    assert judgement.verdict.effect.estimate == pytest.approx(3)
    assert judgement.verdict.effect.high - judgement.verdict.effect.low < 0.6
    assert (judgement.word, judgement.seeds) == ("same direction, larger", 3)
    assert {name: j.word for name, j in judgements.items()} == {
        "component_vfl": "same direction, larger",
        "raw_vfl_over_fcos_atss": "not run",
        "component_star": "not run",
        "component_refinement": "not run",
        "component_over_fcos_atss": "not run",
        "ranking_over_class_score": "same direction",
        "ranking_over_centerness": "not run",
        "ranking_at_iou_80": "same direction",
        "ranking_at_iou_90": "same direction",
    }
    assert observed["component_all"].effect is None


@pytest.mark.parametrize(("name", "points"), [("ranking_over_class_score", 0.3), ("ranking_at_iou_80", 1.5)])
def test_each_metric_has_its_own_effect(tmp_path, name, points):
    evaluate(tmp_path, t3_raw_vfl=(0.330, 0.431, 0.529), t3_raw_fl=(0.300, 0.400, 0.500))
    effect = by_name("table3", tmp_path)[0][name].verdict.effect
    assert (effect.design, effect.estimate) == ("worlds", pytest.approx(points))


def test_only_common_seeds_are_compared(tmp_path):
    evaluate(tmp_path, t3_raw_vfl=(0.33, 0.43, 0.90), t3_raw_fl=(0.30, 0.40))
    judgements = by_name("table3", tmp_path)[0]
    for name, points in (("component_vfl", 3), ("ranking_at_iou_80", 1.5)):
        assert judgements[name].seeds == 2
        assert judgements[name].verdict.effect.estimate == pytest.approx(points)


def test_one_seed_decides_nothing(tmp_path):
    evaluate(tmp_path, t3_raw_vfl=(0.90,), t3_raw_fl=(0.10,))
    judgements = by_name("table3", tmp_path)[0]
    assert judgements["component_vfl"].word == judgements["ranking_at_iou_90"].word == "one seed"


def test_on_fixed_images_trainings_differ_by_chance(tmp_path, tiny_data):
    """The same AP as in worlds, but on the same images: the difference of 3 AP is within the noise of trainings."""
    settings = PipelineConfig(scale="bccd", data_root=tiny_data)
    rows = {"t3_raw_vfl": (0.330, 0.431, 0.529), "t3_raw_fl": (0.300, 0.400, 0.500)}
    evaluate(tmp_path, "bccd", tiny_data, **rows)
    judgements = by_name("table3", tmp_path, settings)[0]
    for name in ("component_vfl", "ranking_at_iou_80", "ranking_over_class_score"):
        assert (judgements[name].verdict.effect.design, judgements[name].word) == ("images", "inconclusive")


def test_trainings_in_one_world_are_trainings_on_fixed_images(tmp_path):
    """Seeds 3, 100003 and 200003 share world 3. Every metric has the design of AP."""
    rows = {"t3_raw_vfl": (0.330, 0.331, 0.329), "t3_raw_fl": (0.300, 0.301, 0.302)}
    for number in range(3):
        one = {id_: values[number : number + 1] for id_, values in rows.items()}
        evaluate(tmp_path, first_seed=3 + 100_000 * number, **one)
    judgements = by_name("table3", tmp_path)[0]
    for name in ("component_vfl", "ranking_at_iou_80", "ranking_over_class_score"):
        effect = judgements[name].verdict.effect
        assert (effect.design, effect.seeds, len(effect.seed_parts)) == ("images", 3, 2)
        assert judgements[name].word.startswith("same direction")


def test_oracles_of_the_same_trainings_are_compared_training_by_training(tmp_path, tiny_data):
    settings = PipelineConfig(scale="bccd", data_root=tiny_data)
    evaluate(tmp_path, "bccd", tiny_data, t1_gt_ctr=(0.311, 0.410, 0.512), t1_base_ctr=(0.300, 0.400, 0.500))
    judgement = by_name("table1", tmp_path, settings)[0]["oracle_true_centerness"]
    assert judgement.word == "below the bound"
    assert judgement.verdict.effect.high < 1.5


def test_the_best_row_has_the_effect_over_its_nearest_rival():
    (judgement,) = judged(gfl_beta_2_is_best=[[9.0, 9.1], [5.0, 5.2], [0.2, 0.4], [7.0, 7.1]])
    assert judgement.verdict.effect.estimate == pytest.approx(0.3)
    assert judgement.verdict.published == 0.2  # of the same rival


def test_more_claims_need_smaller_p_values():
    differences = [[1.0, 1.5, 0.4, 1.3, 0.2, 1.1]]
    (alone,) = judged(component_vfl=differences)
    family = judged(
        component_vfl=differences, component_star=None, component_refinement=None, component_over_fcos_atss=None
    )
    assert alone.word == "same direction, size agrees"
    assert family[0].verdict.p == pytest.approx(4 * alone.verdict.p)
    registered = judge_family(
        claims("component_vfl"), {"component_vfl": (effect_over_worlds(differences[0]),)}, "mini", size=100
    )
    assert registered[0].verdict.p == pytest.approx(100 * alone.verdict.p)
    assert registered[0].word == "inconclusive"


def test_a_placebo_is_judged_alone_by_a_two_sided_test():
    chance = [[0.5, -0.4, 0.1, -0.2]]
    assert [j.word for j in judged(control_placebo=chance, control_star_points=None)] == ["not significant", "not run"]
    for sign in (1, -1):
        real = [[sign * value for value in (1.0, 1.1, 0.9, 1.0)]]
        placebo, other = judged(control_placebo=real, control_star_points=real)
        assert placebo.word == "significant"
        assert placebo.verdict.p == pytest.approx(min(other.verdict.p, other.verdict.p_opposite))  # not corrected
    assert [j.word for j in judged(control_placebo=[[0.5]])] == ["one seed"]
    assert [j.word for j in judged(control_placebo=None)] == ["not run"]


def test_a_treatment_that_cannot_act_is_not_judged():
    differences = [[0.0, 0.1, 0.0]] * 3
    assert judged(gfl_insensitive_to_n=differences)[0].word == "not testable here"
    assert judged(gfl_insensitive_to_n=differences, scale="coco")[0].word == "equivalent"


def test_every_claim_can_be_judged(tmp_path):
    measured = measured_on_disk(MINI, tmp_path)
    for family in families(read_claims()):
        effects = {claim.name: measured.effects(claim.content) for claim in family}
        assert {j.word for j in judge_family(family, effects, "coco")} == {"not run"}
