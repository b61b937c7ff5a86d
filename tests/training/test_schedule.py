"""Learning rates against the numbers of the recipes, and the parameter group of the biases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import workbench
from workbench.settings.experiment import Training
from workbench.training.schedule import make_optimiser, rate_factor

STEP = Training(epochs=12, decay_epochs=(8, 11), learning_rate=0.01)
COSINE = Training(epochs=4, schedule="cosine", warmup_steps=10, warmup_ratio=0.0)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.001), (250, 0.0055), (499, 0.009982), (500, 0.01), (7329, 0.01)])
def test_the_warm_up_rises_linearly(step, rate):
    assert 0.01 * rate_factor(STEP, step, 7330) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("epoch", "factor"), [(1, 1), (7, 1), (8, 0.1), (10, 0.1), (11, 0.01)])
def test_decay_is_a_tenth_from_each_epoch_on(epoch, factor):
    for step in (epoch * 600, epoch * 600 + 599):
        assert rate_factor(STEP, step, 600) == pytest.approx(factor)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (12, 1), (15, 1), (16, 0.1), (21, 0.1), (22, 0.01), (23, 0.01)])
def test_the_schedule_of_24_epochs_is_only_a_setting(epoch, factor):
    twice = Training(epochs=24, decay_epochs=(16, 22), learning_rate=0.01)
    for step in (epoch * 7330 + 500, epoch * 7330 + 7329):
        assert rate_factor(twice, step, 7330) == pytest.approx(factor)


def test_the_warm_up_multiplies_an_early_decay():
    early = Training(epochs=12, decay_epochs=(8, 11))
    assert rate_factor(early, 80, 10) == pytest.approx(0.1 * (1 - (1 - 80 / 500) * 0.9))


def test_the_cosine_falls_to_zero_after_a_warm_up():
    assert [rate_factor(COSINE, s, 25) for s in (25, 50, 75, 100)] == pytest.approx(
        [0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]
    )
    assert rate_factor(COSINE, 0, 25) == 0
    assert rate_factor(COSINE, 5, 25) == pytest.approx(0.5 * (0.5 + 0.5 * math.cos(math.pi * 0.05)))
    assert 0 < rate_factor(COSINE, 99, 25) < 1e-3


def groups(training, model, rate=0.01):
    optimiser = make_optimiser(training, model, rate)
    names = {id(p): name for name, p in model.named_parameters()}
    return optimiser, [{names[id(p)] for p in group["params"]} for group in optimiser.param_groups]


def test_the_bias_group_contains_only_biases_of_convolutions():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 4, 1),
            "bare": nn.Conv2d(4, 4, 1, bias=False),
            "bn": nn.BatchNorm2d(4),
            "gn": nn.GroupNorm(2, 4),
            "frozen": nn.Conv2d(2, 4, 1).requires_grad_(False),
        }
    )
    model.factors = nn.Parameter(torch.ones(5))
    training = Training(epochs=1, bias_lr_factor=2, bias_weight_decay=False)
    optimiser, (others, biases) = groups(training, model)
    assert biases == {"conv.bias"}
    assert others == {"factors", "conv.weight", "bare.weight", "bn.weight", "bn.bias", "gn.weight", "gn.bias"}
    other, bias = optimiser.param_groups
    assert (other["lr"], other["base_lr"], other["weight_decay"], other["momentum"]) == (0.01, 0.01, 1e-4, 0.9)
    assert (bias["lr"], bias["base_lr"], bias["weight_decay"], bias["momentum"]) == (0.02, 0.02, 0, 0.9)
    assert isinstance(optimiser, torch.optim.SGD)
    assert not other["nesterov"]
    assert other["dampening"] == 0


def test_without_the_bias_rule_both_groups_have_the_same_settings():
    optimiser, _ = groups(Training(epochs=1), nn.Conv2d(2, 4, 1))
    assert [(g["lr"], g["weight_decay"]) for g in optimiser.param_groups] == [(0.01, 1e-4)] * 2


def test_parameter_groups_of_vfnet_at_scale_coco():
    experiment = workbench.load_experiment("table3", "t3_full_vfl", "coco")
    model = workbench.build_detector(experiment)
    optimiser, (others, biases) = groups(experiment.training, model)
    assert biases == {
        *(f"neck.{part}.{i}.bias" for part, n in (("laterals", 3), ("outputs", 3), ("extra", 2)) for i in range(n)),
        *(f"head.{name}.bias" for name in ("box_out", "refine_out", "cls_out")),
    }
    assert {"head.scales.factors", "head.refine_scales.factors", "head.reg_tower.0.1.bias"} <= others
    assert "backbone.net.layer2.0.bn1.bias" in others
    assert others | biases == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(
        name.startswith(("backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1")) for name in others
    )
    assert [(g["lr"], g["weight_decay"]) for g in optimiser.param_groups] == [(0.01, 1e-4), (0.02, 0)]


def test_adamw_has_the_same_groups():
    training = Training(epochs=1, optimiser="adamw", weight_decay=0.05, bias_weight_decay=False, bias_lr_factor=2)
    optimiser, _ = groups(training, nn.Conv2d(2, 4, 1), rate=0.002)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"]) for g in optimiser.param_groups] == [(0.002, 0.05), (0.004, 0)]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_both_optimisers_are_fused(kind):
    optimiser, _ = groups(Training(epochs=1, optimiser=kind), nn.Conv2d(2, 4, 1))
    assert all(group["fused"] for group in optimiser.param_groups)


def test_fused_sgd_computes_the_same_weights_up_to_rounding():
    torch.manual_seed(0)
    first, second = (nn.Linear(301, 7) for _ in range(2))
    second.load_state_dict(first.state_dict())
    training = Training(epochs=1, bias_lr_factor=2)
    fused, plain = (groups(training, model)[0] for model in (first, second))
    for group in plain.param_groups:
        group["fused"] = False
    for _ in range(4):
        for parameter, other in zip(first.parameters(), second.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        fused.step()
        plain.step()
    for parameter, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)
