"""Pretraining of a backbone: classification of drawn objects, as ImageNet's classification precedes COCO's detection.

Each picture has one object. Its outlines, fillings and backgrounds are those of the embedded data set. The weights are
made once for each backbone; all rows, seeds and worlds start from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.data.batch import normalise
from workbench.data.embedded import draw_object
from workbench.layers.backbones import ResidualBackbone
from workbench.settings.data import EmbeddedData
from workbench.settings.experiment import Backbone, DrawnPretraining

TEST_PICTURES = 2000
"""Number of pictures on which the accuracy is measured."""


class Classifier(nn.Module):
    """Backbone, mean over the locations of C5, and one linear layer.

    Shapes: images ``[B, 3, S, S]`` → logits ``[B, classes]``.
    """

    def __init__(self, backbone: ResidualBackbone, classes: int):
        super().__init__()
        self.backbone = backbone
        self.out = nn.Linear(backbone.channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.backbone(images)[-1].mean(dim=(2, 3)))


def draw_objects(data: EmbeddedData, side: int, first: int, number: int) -> tuple[Tensor, Tensor]:
    """Draw pictures ``[N, 3, S, S]`` uint8 with one object each, and the indices ``[N]`` of their categories."""
    pictures, labels = zip(*(draw_object(data, side, first + index) for index in range(number)), strict=True)
    images = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return images.permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def pretrain(
    backbone: Backbone,
    recipe: DrawnPretraining,
    data: EmbeddedData,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Train a backbone to classify drawn objects.

    Args:
        backbone: without DCN; nothing is frozen.
        recipe: number of pictures, size, schedule.
        data: decides categories, outlines and fillings; its world and its numbers of images do not matter.
        progress: function of the step, the number of steps and the loss.

    Returns:
        Weights of the backbone by timm's names, and the accuracy on pictures that the training did not see.
    """
    torch.manual_seed(0)
    plain = backbone.model_copy(update={"pretrained": False, "frozen_stages": 0, "norm": "trained", "dcn": False})
    model = Classifier(ResidualBackbone(plain), data.classes).to(memory_format=torch.channels_last)
    images, labels = draw_objects(data, recipe.side, 0, recipe.pictures)
    steps_per_epoch = len(images) // recipe.batch
    steps = recipe.epochs * steps_per_epoch
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for step, chosen in enumerate(_batches(len(images), recipe.batch, recipe.epochs)):
        batch = normalise(images[chosen], [(recipe.side, recipe.side)] * len(chosen))
        loss = F.cross_entropy(model(batch), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, steps, float(loss.detach()))
    accuracy = _accuracy(model, *draw_objects(data, recipe.side, recipe.pictures, TEST_PICTURES))
    return {name: tensor.contiguous() for name, tensor in model.backbone.net.state_dict().items()}, accuracy


def _batches(pictures: int, batch: int, epochs: int) -> Iterator[Tensor]:
    """Indices of the pictures of each step: every epoch has all pictures in another order."""
    for epoch in range(epochs):
        order = torch.randperm(pictures, generator=torch.Generator().manual_seed(epoch))
        yield from order[: pictures - pictures % batch].split(batch)


@torch.no_grad()
def _accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    model.eval()
    side = images.shape[-1]
    parts = images.split(100)
    guesses = torch.cat([model(normalise(part, [(side, side)] * len(part))).argmax(1) for part in parts])
    return (guesses == labels).double().mean().item()
