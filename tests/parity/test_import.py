"""Imported checkpoints, as MMDetection 3.3.0 and MMEngine save them: the same detections as in MMDetection."""

import shutil
from pickle import UnpicklingError

import pytest
import torch

from tests.parity.comparison import as_theirs, draw_samples, enliven
from tests.parity.test_atss import enliven_head
from tests.parity.test_backbones import moderate
from tests.parity.test_foveabox import even_out
from tests.parity.test_reppoints import enliven_points
from tests.parity.test_retinanet import calm_outputs
from workbench.data.transforms import collate
from workbench.runs.load import load_training
from workbench.runs.results import scale_folder
from workbench.settings.catalog import load_table
from workbench.settings.data import COCO_NAMES
from workbench.settings.files import table_names
from workbench.settings.released import read_released
from workbench.weights import mmdet_import
from workbench.weights.mmdet_import import import_checkpoint

SAMPLES = draw_samples([(96, 128)], [0], seed=5)
THRESHOLD = float(torch.tensor(0.05).logit())


def even_classes(mm, model):
    """Give all classes the same mean: otherwise a few classes have the best score everywhere."""
    images, _ = as_theirs(mm, model, SAMPLES)
    maps = model(images, mode="tensor")[0]
    model.bbox_head.vfnet_cls.bias -= torch.cat([x.flatten(2) for x in maps], dim=2).mean((0, 2))


FAMILIES = {  # classifier, and function that makes random boxes and scores ordinary
    "vfnet": ("vfnet_cls", even_classes),
    "atss": ("atss_cls", lambda mm, model: enliven_head(model.bbox_head, "atss")),
    "gfl": ("gfl_cls", lambda mm, model: enliven_head(model.bbox_head, "gfl")),
    "retinanet": ("retina_cls", lambda mm, model: calm_outputs(model)),
    "foveabox": ("conv_cls", even_out),
    "reppoints": ("reppoints_cls_out", lambda mm, model: enliven_points(model)),
}
PUBLISHED = {name: weights for name, weights in read_released().items() if weights.config}
ROWS = {row.id: row for table in table_names() for row in load_table(table, "coco")[1]}


def build_theirs(mm, config):
    """MMDetection's detector with random weights, and a bias of the classes with which many pairs pass the threshold.

    At most 900 pairs of a level pass: MMDetection keeps 1000 pairs of location and class, we keep 1000 locations.
    """
    kind = config.split("/")[0]
    classifier, liven = FAMILIES[kind]
    settings = mm.config(f"{config}.py").model
    settings.backbone.init_cfg = None
    model = enliven(mm.model(settings), 10 if kind == "retinanet" else 0)
    moderate(model)
    liven(mm, model)
    logits = [x.flatten() for x in model(as_theirs(mm, model, SAMPLES)[0], mode="tensor")[0]]
    highest = [float(x.topk(900).values[-1]) for x in logits if x.numel() > 900]
    getattr(model.bbox_head, classifier).bias += THRESHOLD - max(highest)
    return model


def save_as_published(model, file):
    """Write a file as published for version 3: weights and a few facts."""
    from mmengine.runner import save_checkpoint

    meta = {"mmengine_version": "0.10.7", "dataset_meta": {"classes": COCO_NAMES}, "epoch": 12, "iter": 87960}
    save_checkpoint({"meta": meta, "state_dict": model.state_dict(), "message_hub": {}}, str(file))
    return file


def save_while_training(model, file):
    """Write a file by MMEngine's runner and hook, with an optimiser, a history of losses and the message hub."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Idle(BaseModel):
        """Model with the detector's parts and a loss of zero."""

        def __init__(self):
            super().__init__()
            self.backbone, self.neck, self.bbox_head = model.backbone, model.neck, model.bbox_head

        def init_weights(self):
            """Leave the weights unchanged."""

        def forward(self, inputs, data_samples=None, mode="loss"):
            self.eval()
            return {"loss": 0 * self.bbox_head.vfnet_cls.bias.sum()}

    class Data(list):
        metainfo = {"classes": COCO_NAMES}

    data = Data([{"inputs": torch.zeros(1), "data_samples": torch.zeros(1)}] * 4)
    Runner(
        Idle(),
        work_dir=str(file.parent / "work"),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=2),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        param_scheduler=[{"type": "MultiStepLR", "milestones": [1], "by_epoch": True}],
        default_scope="mmdet",
        experiment_name=file.parent.name,
    ).train()
    model.eval()
    return file.parent / "work" / "epoch_1.pth"


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_the_same_detections_after_import(mm, tmp_path, name, monkeypatch):
    """All published checkpoints are tested whose detector has a configuration in MMDetection.

    The weights are made here, so that the listed digest of the published file is not theirs.
    """
    monkeypatch.setattr(mmdet_import, "check_published", lambda file, _: {"file": file.name, "sha256": "made here"})
    config, row = PUBLISHED[name].config, ROWS[next(iter(PUBLISHED[name].rows))]
    batch, theirs = collate(SAMPLES).to("cpu"), build_theirs(mm, config)
    images, listed = as_theirs(mm, theirs, SAMPLES)
    while_training = name == "vfnet_r50_1x"
    with torch.enable_grad():
        file = (save_while_training if while_training else save_as_published)(theirs, tmp_path / "published.pth")
    if while_training:  # needs the allow-list
        with pytest.raises(UnpicklingError, match=r"HistoryBuffer|getattr"):
            torch.load(file, weights_only=True)
    training = scale_folder(tmp_path, "coco").training(row, "released")
    training.run.write_experiment(row.experiment)
    output = []
    import_checkpoint(file, training, None, output.append)
    assert output[:-1] == (["bbox_head.integral.project: left out, not a weight"] if config.startswith("gfl") else [])

    detector = load_training(training).detector
    shutil.rmtree(tmp_path)  # up to a gigabyte
    variant = row.variant.model_copy(update={"max_detections": 10_000})
    here = detector.detect(batch.images, batch.sizes, variant)[0]
    there = theirs.predict(images, listed, rescale=False)[0].pred_instances
    assert len(there) >= 50
    assert there.labels.unique().numel() >= 10
    # MMDetection drops boxes that are empty after clipping; they suppress no other box.
    kept = (here.boxes[:, 2:] > here.boxes[:, :2]).all(1).nonzero().flatten()
    # Rounding may exchange neighbours, so each of MMDetection's boxes is compared with the nearest box of its class.
    apart = torch.cdist(there.bboxes, here.boxes[kept], p=torch.inf)
    apart[there.labels.unsqueeze(1) != here.labels[kept]] = torch.inf
    place = apart.argmin(1)
    assert place.unique().numel() == len(there)
    assert (place.sort().values - torch.arange(len(there))).abs().max() <= 1
    torch.testing.assert_close(here.scores[kept][place], there.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(here.boxes[kept][place], there.bboxes, rtol=0, atol=1e-2)


def test_names_of_cocos_classes_are_mmdetections(mm):
    from mmdet.datasets import CocoDataset

    assert CocoDataset.METAINFO["classes"] == COCO_NAMES
