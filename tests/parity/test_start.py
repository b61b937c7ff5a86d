"""A file that MMDetection saves, loaded as the start of a training: the same predictions before the first step."""

from dataclasses import replace

import pytest
import torch

from tests.parity.comparison import as_theirs, draw_samples
from tests.parity.test_import import build_theirs, save_as_published, save_while_training
from workbench.data.transforms import collate
from workbench.detectors import build_detector
from workbench.settings.catalog import load_row
from workbench.settings.data import COCO_NAMES, CocoData
from workbench.settings.released import read_released
from workbench.support.errors import WorkbenchError
from workbench.weights.mmdet_file import read_checkpoint
from workbench.weights.normalisation import check_normalisation
from workbench.weights.start import INITIAL, start_from

SAMPLES = draw_samples([(96, 128)], [0], seed=5)
CONFIGS = {
    "vfnet/vfnet_r50_fpn_1x_coco": ("table3", "t3_full_vfl"),
    "retinanet/retinanet_r50_fpn_1x_coco": ("table5", "t5_retinanet_fl"),  # nine anchors of a location
}
CLASSES = {
    "the same": COCO_NAMES,
    "another order": COCO_NAMES[::-1],
    "a part, and new ones": ("unicorn", *COCO_NAMES[40:60], "dragon"),
}


def logits_of(model, images):
    """MMDetection's logits of all locations ``[B, P, 80]``, in our order: level by level, anchors innermost."""
    maps = model(images, mode="tensor")[0]
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, len(COCO_NAMES)) for x in maps], dim=1)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_the_same_predictions_before_the_first_step(mm, tmp_path, config, classes):
    names, theirs = CLASSES[classes], build_theirs(mm, config)
    experiment = load_row(*CONFIGS[config], "coco").experiment.model_copy(update={"data": CocoData(classes=len(names))})
    with torch.enable_grad():
        # The file of a training has an optimiser, a history and the message hub beside the weights.
        save = save_while_training if config.startswith("vfnet") else save_as_published
        file = save(theirs, tmp_path / "published.pth")
    torch.manual_seed(0)
    ours = build_detector(experiment).eval()
    initial = ours.head.cls_out.bias.clone()
    account = start_from(file, ours, experiment, names)
    tensors = account.facts["tensors"]
    assert INITIAL not in tensors.values()

    predictions = ours.predict(collate(SAMPLES).to("cpu").images)
    expected = logits_of(theirs, as_theirs(mm, theirs, SAMPLES)[0])
    shared = [i for i, name in enumerate(names) if name in COCO_NAMES]
    others = [i for i, name in enumerate(names) if name not in COCO_NAMES]
    of_theirs = [COCO_NAMES.index(names[i]) for i in shared]
    torch.testing.assert_close(predictions.logits[..., shared], expected[..., of_theirs], rtol=0, atol=1e-4)
    biases = ours.head.cls_out.bias.unflatten(0, (-1, len(names)))
    assert torch.equal(biases[:, others], initial.unflatten(0, (-1, len(names)))[:, others])


def saved_with_configuration(mm, config, file):
    """Write a file whose facts have the text of the configuration, as MMEngine's runner writes it."""
    from mmengine.runner import save_checkpoint

    settings = mm.config(f"{config}.py")
    settings.model.backbone.init_cfg = None
    meta = {"cfg": settings.pretty_text, "mmengine_version": "0.10.7", "dataset_meta": {"classes": COCO_NAMES}}
    save_checkpoint({"meta": meta, "state_dict": mm.model(settings.model).state_dict()}, str(file))
    return read_checkpoint(file)


@pytest.mark.parametrize("config", sorted({weights.config for weights in read_released().values() if weights.config}))
def test_the_normalisation_of_published_detectors_is_that_of_the_detectors_here(mm, tmp_path, config):
    checkpoint = saved_with_configuration(mm, config, tmp_path / "published.pth")
    assert check_normalisation(checkpoint, tmp_path / "published.pth") == []


@pytest.mark.parametrize("config", ["retinanet/retinanet_r50-caffe_fpn_1x_coco", "vfnet/vfnet_r50_fpn_1x_coco"])
def test_other_images_are_refused(mm, tmp_path, config):
    """Backbones of Caffe need images in the order BGR, with another mean and no deviation."""
    checkpoint = saved_with_configuration(mm, config, tmp_path / "x.pth")
    text = "" if "caffe" in config else checkpoint.config.replace("bgr_to_rgb=True", "bgr_to_rgb=False")
    checkpoint = replace(checkpoint, config=text or checkpoint.config)
    expected = "mean 103.53, 116.28, 123.675; std 1, 1, 1; channels" if "caffe" in config else "channels"
    with pytest.raises(WorkbenchError, match=rf"its backbone needs images with {expected} in the order BGR, but the"):
        check_normalisation(checkpoint, tmp_path / "x.pth")
