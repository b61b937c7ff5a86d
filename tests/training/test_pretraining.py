"""Pretraining on drawn objects: repeatable weights that a backbone loads, facts beside them, and refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file

from workbench.commands.pretrain import write_backbone
from workbench.layers.backbones import ResidualBackbone
from workbench.settings.catalog import load_experiment
from workbench.settings.experiment import DrawnPretraining
from workbench.settings.ids import pretraining_id
from workbench.support.errors import WorkbenchError
from workbench.training import pretraining
from workbench.training.pretraining import draw_objects, pretrain
from workbench.weights.download import check_backbone

FEW = DrawnPretraining(pictures=48, epochs=2, batch=16, side=64)


@pytest.fixture(autouse=True)
def few_test_pictures(monkeypatch):
    monkeypatch.setattr(pretraining, "TEST_PICTURES", 40)


@pytest.fixture
def experiment():
    """Experiment with a short pretraining, at the scale whose backbones are pretrained."""
    experiment = load_experiment("table3", "t3_fcos_atss", "mini")
    backbone = experiment.backbone.model_copy(update={"pretrained": FEW})
    return experiment.model_copy(update={"backbone": backbone})


def test_each_picture_has_an_object_of_its_category(experiment):
    images, labels = draw_objects(experiment.data, 64, 0, 60)
    assert images.shape == (60, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert len(labels.unique()) > experiment.data.classes / 2
    again = draw_objects(experiment.data.drawn_for(7), 64, 30, 30)
    assert torch.equal(again[0], images[30:])  # in any world, the same pictures
    assert torch.equal(again[1], labels[30:])


def test_weights_are_repeatable_and_fit_their_backbone(experiment, tmp_path):
    write_backbone(experiment, tmp_path / "one.safetensors")
    weights, accuracy = pretrain(experiment.backbone, FEW, experiment.data)
    facts = json.loads((tmp_path / "one.json").read_text())
    assert facts["name"] == pretraining_id(experiment)
    assert facts["accuracy"] == round(accuracy, 4)
    written = load_file(tmp_path / "one.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)
    backbone = ResidualBackbone(experiment.backbone)
    backbone.load_pretrained(tmp_path / "one.safetensors")
    assert all(torch.equal(backbone.net.state_dict()[name], weights[name]) for name in weights)
    assert check_backbone(tmp_path / "one.safetensors", experiment.backbone)["sha256"] == facts["sha256"]


def test_other_weights_than_the_stated_ones_are_refused(experiment, tmp_path):
    write_backbone(experiment, tmp_path / "one.safetensors")
    (tmp_path / "one.safetensors").write_bytes(b"other")
    with pytest.raises(WorkbenchError, match=r"SHA-256 .* is listed for resnet50; "):
        check_backbone(tmp_path / "one.safetensors", experiment.backbone)


def test_the_learnt_categories_are_better_than_chance(experiment):
    """A few pictures of two epochs are learnt by heart: the loss falls below that of a guess."""
    losses = []
    recipe = FEW.model_copy(update={"pictures": 64, "epochs": 26, "learning_rate": 5e-3})
    pretrain(experiment.backbone, recipe, experiment.data, lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < 0.7 * torch.tensor(float(experiment.data.classes)).log()


@pytest.mark.parametrize(("name", "scale"), [("one.pth", "mini"), ("one.safetensors", "coco")])
def test_wrong_names_and_scales_are_refused(tmp_path, name, scale):
    with pytest.raises(WorkbenchError, match=r"must end in|not pretrained on drawn objects"):
        write_backbone(load_experiment("table3", "t3_fcos_atss", scale), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_name_depends_on_all_that_decides_the_weights(experiment):
    def renamed(**changes):
        parts = {key: getattr(experiment, key).model_copy(update=value) for key, value in changes.items()}
        return pretraining_id(experiment.model_copy(update=parts)) != pretraining_id(experiment)

    assert renamed(backbone={"channels": (8, 8, 8, 8)})
    assert renamed(backbone={"pretrained": FEW.model_copy(update={"epochs": 3})})
    assert renamed(data={"varied": False})
    assert not renamed(backbone={"dcn": True})
    assert not renamed(backbone={"norm": "frozen", "frozen_stages": 1})
    assert not renamed(data={"world": 3, "train_images": 5})
