"""Values and gradients against the papers' equations, written out in double precision."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from workbench.losses.classification import (
    CLASSIFICATION_LOSSES,
    AnyClassificationLoss,
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
)


def cross_entropy(x, y):
    return -(y * torch.log(torch.sigmoid(x)) + (1 - y) * torch.log(torch.sigmoid(-x)))


def focal(x, y, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(x)
    positive = -alpha * (1 - p) ** gamma * torch.log(p)
    negative = -(1 - alpha) * p**gamma * torch.log(torch.sigmoid(-x))
    return torch.where(y == 1, positive, negative)


def quality_focal(x, y, beta=2.0):
    return (y - torch.sigmoid(x)).abs() ** beta * cross_entropy(x, y)


def varifocal(x, q, alpha=0.75, gamma=2.0, q_weighting=True):
    positive = (q if q_weighting else 1) * cross_entropy(x, q)
    negative = -alpha * torch.sigmoid(x) ** gamma * torch.log(torch.sigmoid(-x))
    return torch.where(q > 0, positive, negative)


CASES = [
    (FocalLoss(), focal),
    (FocalLoss(alpha=0.4, gamma=1.5), lambda x, y: focal(x, y, 0.4, 1.5)),
    (QualityFocalLoss(), quality_focal),
    *((QualityFocalLoss(beta=b), lambda x, y, b=b: quality_focal(x, y, b)) for b in (0, 1, 2.5, 4)),
    (VarifocalLoss(), varifocal),
    (VarifocalLoss(q_weighting=False), lambda x, q: varifocal(x, q, q_weighting=False)),
    *(
        (VarifocalLoss(alpha=a, gamma=g), lambda x, q, a=a, g=g: varifocal(x, q, a, g))
        for a, g in ((0.5, 1.0), (0.75, 1.5), (1.25, 2.5), (1.0, 3.0))
    ),
]


def entries(loss, dtype):
    """Logits and targets: 0, 1 and, for a loss that wants a quality, values in between."""
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    targets = [0, 1e-6, 0.1, 0.35, 0.6, 0.8, 1] if loss.wants_quality else [0, 1]
    x, y = torch.meshgrid(logits, torch.tensor(targets, dtype=torch.float64), indexing="ij")
    return x.to(dtype).contiguous().requires_grad_(), y.to(dtype)


@pytest.mark.parametrize(("loss", "equation"), CASES, ids=lambda case: repr(case) if hasattr(case, "name") else "")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_values_and_gradients_follow_the_equation(loss, equation, dtype, tolerance):
    x, y = entries(loss, dtype)
    exact = x.detach().double().requires_grad_()
    value, expected = loss(x, y), equation(exact, y.double())
    assert value.shape == x.shape
    assert (value >= 0).all()
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    weights = torch.linspace(0.5, 1.5, x.numel()).view_as(x)  # a separate gradient for every entry
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("loss", "logit", "target", "value"),
    [
        (VarifocalLoss(), 0, 0.8, 0.55452),
        (VarifocalLoss(), 1, 0.6, 0.42796),
        (VarifocalLoss(q_weighting=False), 1, 0.6, 0.71326),
        (VarifocalLoss(), 1, 0, 0.52640),
        (FocalLoss(), 1, 1, 0.0056645),
        (FocalLoss(), 1, 0, 0.52640),
        (QualityFocalLoss(), 1, 0.6, 0.012251),
        (QualityFocalLoss(), 1, 0, 0.70187),
    ],
)
def test_published_values(loss, logit, target, value):
    actual = loss(torch.tensor([float(logit)]), torch.tensor([float(target)])).item()
    assert actual == pytest.approx(value, rel=2e-5)


@pytest.mark.parametrize(("loss", "equation"), CASES, ids=lambda case: repr(case) if hasattr(case, "name") else "")
def test_extreme_logits_have_finite_losses_and_gradients(loss, equation):
    x = torch.tensor([[-50.0], [50.0]]).expand(2, 3).contiguous().requires_grad_()
    y = torch.tensor([0, 1, 0.5 if loss.wants_quality else 0.0]).expand(2, 3)
    value = loss(x, y)
    value.sum().backward()
    assert value.isfinite().all()
    assert x.grad.isfinite().all()
    assert (value[0, 1] > 10) or loss.model_dump().get("alpha", 1) < 0.5  # a confident error has a large loss
    torch.testing.assert_close(value[0, 1].double(), equation(x[0, 1].double(), y[0, 1].double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("exponent", [0, 0.01, 0.5, 0.99, 1, 2])
@pytest.mark.parametrize(("cls", "name"), [(FocalLoss, "gamma"), (QualityFocalLoss, "beta"), (VarifocalLoss, "gamma")])
def test_gradients_are_finite_for_any_exponent_where_a_factor_is_zero(cls, name, exponent):
    """An exponent below 1 has an infinite slope at 0, where the probability is rounded to 0 or 1, or equals the target."""
    x = torch.tensor([-200.0, -100, -20, 0, 20, 100, 200]).unsqueeze(1).expand(7, 3).contiguous().requires_grad_()
    y = torch.tensor([0, 1, 0.5 if cls.wants_quality else 0.0]).expand(7, 3)
    value = cls(**{name: float(exponent)})(x, y)
    value.sum().backward()
    assert value.isfinite().all()
    assert x.grad.isfinite().all()
    agreement = [(0, 0), (6, 1), (3, 2)] if cls.wants_quality else [(0, 0), (6, 1)]
    for entry in agreement:
        assert abs(x.grad[entry]) < 1e-6


def test_an_entry_is_positive_if_its_target_is_above_zero():
    """A positive of the least quality is not a negative: its weight is its quality, not alpha p^gamma."""
    x = torch.tensor([2.0, 2.0])
    tiny, none = VarifocalLoss()(x, torch.tensor([1e-6, 0.0]))
    assert tiny < 1e-5
    assert none > 1


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_settings_are_frozen_and_unknown_keys_are_errors(name):
    cls = CLASSIFICATION_LOSSES[name]
    loss = cls()
    assert loss.name == name
    field = next(key for key in cls.model_fields if key != "name")
    with pytest.raises(ValidationError, match="frozen"):
        setattr(loss, field, 0.5)
    with pytest.raises(ValidationError, match="alhpa"):
        cls(alhpa=0.5)
    with pytest.raises(ValidationError):
        cls(**{field: -1})
    assert TypeAdapter(AnyClassificationLoss).validate_python({"name": name}) == loss


def test_facts_of_the_losses():
    assert {n: (c.wants_quality, c.counts_padding) for n, c in CLASSIFICATION_LOSSES.items()} == {
        "focal": (False, False),
        "quality_focal": (True, False),
        "varifocal": (True, True),
    }
