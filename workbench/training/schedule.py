"""Learning rates (warm-up, steps, cosine, cycles of weight averaging) and the optimiser with its parameter groups."""

from __future__ import annotations

import math

import torch
from torch import nn

from workbench.layers.deform import OffsetPredictor
from workbench.settings.experiment import Training, WeightAveraging

MOMENTUM = 0.9
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def rate_factor(training: Training, step: int, steps_per_epoch: int) -> float:
    """Factor of the base learning rate at ``step`` (from 0).

    The schedule either divides the rate by ten at each decay epoch, or follows half a cosine that ends at zero after
    the last epoch. A linear warm-up from ``warmup_ratio`` over ``warmup_steps`` multiplies the schedule. The cycles of
    weight averaging after the epochs have neither warm-up nor decay.
    """
    if training.swa is not None and step >= training.epochs * steps_per_epoch:
        return cycle_rate(training.swa, step % steps_per_epoch, steps_per_epoch) / training.learning_rate
    if training.schedule == "step":
        factor = 0.1 ** sum(step // steps_per_epoch >= epoch for epoch in training.decay_epochs)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * step / (training.epochs * steps_per_epoch)))
    if step < training.warmup_steps:
        factor *= 1 - (1 - step / training.warmup_steps) * (1 - training.warmup_ratio)
    return factor


def cycle_rate(swa: WeightAveraging, step: int, steps: int) -> float:
    """Learning rate at ``step`` (from 0) of a cycle of ``steps`` steps: half a cosine from ``high`` towards ``low``."""
    return swa.low + 0.5 * (swa.high - swa.low) * (1 + math.cos(math.pi * step / steps))


def make_optimiser(training: Training, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Optimiser of all trainable parameters, in two groups: biases outside norm layers and DCNv2, and all others.

    Each group stores its full learning rate as ``base_lr``. The update is fused into one pass over the weights, on any
    device. On a CPU, fused SGD takes a third of the time; its weights differ by rounding. Scale ``mini`` has AdamW.
    """
    biases, others = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_bias = name == "bias" and not isinstance(module, (*NORMS, OffsetPredictor))
                (biases if is_bias else others).append(parameter)
    bias_rate = learning_rate * training.bias_lr_factor
    bias_decay = training.weight_decay if training.bias_weight_decay else 0.0
    groups = [
        {"params": others, "lr": learning_rate, "base_lr": learning_rate, "weight_decay": training.weight_decay},
        {"params": biases, "lr": bias_rate, "base_lr": bias_rate, "weight_decay": bias_decay},
    ]
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM, fused=True)
    return torch.optim.AdamW(groups, fused=True)
