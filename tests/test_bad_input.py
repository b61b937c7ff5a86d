"""Mistakes with data and files on the command line.

Each mistake ends in one line that names the file and a remedy. No file is left with which a step would count as done.
"""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from tests.few_images import CLASSES, MINI
from tests.scene import (
    Scene,
    checkpoint_of_another_head,
    document,
    emptied,
    entry,
    experiment,
    file_for_folder,
    full_disk,
    make_scene,
    no_move,
    prepare,
    resized,
    swapped_names,
    truncated,
    truncated_checkpoint,
    twice,
    upside_down,
    without_category,
)
from workbench.support import files
from workbench.training import checkpoints as checkpointing


@pytest.fixture
def scene(tiny_data, tiny_experiment, tmp_path, monkeypatch):
    return make_scene(tiny_data, tiny_experiment, tmp_path, monkeypatch)


TRAIN, VAL = "instances_train2017.json: ", "instances_val2017.json: "

FIRST, SECOND, *_, LAST = MINI.categories
# Mistake: (command, damage to the scene, parts of the message).
NOT_DETECTED = [
    "/seed0/nms0.6-",
    "no detections with this variant, on these images and annotations; run workbench detect",
]
MISTAKES = {
    "no data": ("train", lambda s: shutil.rmtree(s.root), ["data: no such data folder", "choose the folder"]),
    "no annotation file": ("train", lambda s: s.annotations().unlink(), [TRAIN, "no such annotation file; put"]),
    "no validation file": ("train", lambda s: s.annotations("val2017").unlink(), [VAL, "no such annotation file; put"]),
    "annotations truncated": ("train", truncated(Scene.annotations), [TRAIN, "incomplete; copy the file again"]),
    "annotations empty": ("train", lambda s: s.annotations().write_text(""), [TRAIN, "not valid JSON", "; copy"]),
    "annotations binary": ("train", lambda s: s.annotations().write_bytes(b"\xff\x00"), [TRAIN, "copy the file again"]),
    "annotations not COCO's": ("train", lambda s: s.annotations().write_text("{}"), [TRAIN, "no list 'images'; use"]),
    "image missing": ("train", lambda s: s.image().unlink(), ["{image}: no such image; copy it there or remove"]),
    "image truncated": ("train", truncated(Scene.image), ["{image}: not a readable", "copy or convert it again"]),
    "image empty": ("train", lambda s: s.image().write_text(""), ["{image}: not a readable", "copy or convert"]),
    "not an image": ("train", lambda s: s.image().write_text("text"), ["{image}: not a readable", "copy or convert"]),
    "image of another size": ("train", resized, ["{image}: the image has 50x40 pixels, but the annotations state"]),
    "validation image missing": ("train", lambda s: s.image("val2017").unlink(), ["val2017/", ": no such image; copy"]),
    "negative width": ("train", entry("annotations", id=901, bbox=[1, 2, -3, 4]), [TRAIN, "annotation 901", "correct"]),
    "NaN in a box": (
        "train",
        entry("annotations", id=901, bbox=[1, float("nan"), 3, 4]),
        [TRAIN, "annotation 901 has a box with NaN", "correct it"],
    ),
    "unknown image": (
        "train",
        entry("annotations", id=901, image_id=902),
        [TRAIN, "annotation 901 belongs to image 902", "add the image or remove the annotation"],
    ),
    "duplicate image id": ("train", twice("images"), [TRAIN, "image id ", " occurs 2 times; make the ids unique"]),
    "duplicate annotation id": ("train", twice("annotations"), [TRAIN, "annotation id ", "make the ids unique"]),
    "duplicate category id": (
        "train",
        document(lambda c: c["categories"].append(c["categories"][0] | {"name": "other"})),
        [TRAIN, "category id ", "make the ids unique"],
    ),
    "no images": ("train", emptied("images", "annotations"), [TRAIN, "no images are left", "check the file"]),
    "no annotations": ("train", emptied("annotations"), [TRAIN, "24 images without annotations", "check the file"]),
    "no categories": ("train", emptied("categories"), [TRAIN, "'categories' is empty", "; add at least one category"]),
    "too few classes": (
        "train",
        document(lambda c: c["categories"].pop()),
        [f"{CLASSES - 1} categories", f"data.classes: {CLASSES}; name another"],
    ),
    "other classes in validation": (
        "train",
        document(lambda c: (c["categories"].pop(), c["annotations"].clear()), "val2017"),
        [VAL, "instances_train2017.json has ", f"{LAST.id} '{LAST.name}'", "; give both the same categories"],
    ),
    "names of classes swapped in validation": (
        "train",
        document(swapped_names, "val2017"),
        [
            VAL,
            f"categories are {FIRST.id} '{SECOND.name}', {SECOND.id} '{FIRST.name}'",
            f"instances_train2017.json has {FIRST.id} '{FIRST.name}', {SECOND.id} '{SECOND.name}'",
        ],
    ),
    "names of classes swapped later": (
        "detect",
        document(swapped_names, "val2017"),
        [
            f"data: the categories are {FIRST.id} '{SECOND.name}', {SECOND.id} '{FIRST.name}'",
            f"was trained on {FIRST.id} '{FIRST.name}', {SECOND.id} '{SECOND.name}'",
            "; give both",
        ],
    ),
    "validation area is a list": (
        "train",
        entry("annotations", "val2017", area=[3]),
        [VAL, "has the 'area' [3]; use a"],
    ),
    "validation image truncated": (
        "train",
        truncated(lambda s: s.image("val2017")),
        ["/val2017/", ": not a readable", "copy or convert it again"],
    ),
    "checkpoint of another head": (
        "train",
        checkpoint_of_another_head,
        ["train.json: belongs to another training (run vfnet-", "to train again"],
    ),
    "checkpoint truncated": ("train", truncated_checkpoint, ["last.pt: not a checkpoint of this run", "delete it"]),
    "losses not finite": (
        "train",
        experiment(training={"learning_rate": 1e18, "optimiser": "sgd", "warmup_steps": 0, "epochs": 2}),
        [
            "the loss is not finite",
            "images 0000",
            ".jpg; check the boxes of these images, or lower training.learning_rate",
        ],
    ),
    "unknown key": (
        "train",
        experiment(training={"epoch": 3}),
        ["experiment.json: training.epoch: unknown key; did you mean 'epochs'?"],
    ),
    "unknown loss": (
        "train",
        experiment(loss={"name": "varifocl"}),
        ["experiment.json: loss: unknown name 'varifocl'; did you mean 'varifocal'?"],
    ),
    "wrong type": (
        "train",
        experiment(training={"epochs": "many"}),
        ["experiment.json: training.epochs: input should be a valid integer", "(found 'many')"],
    ),
    "settings are a list": (
        "train",
        lambda s: (s.run / "experiment.json").write_text("[]"),
        ["experiment.json: expected a group of keys and values, not []"],
    ),
    "settings truncated": (
        "train",
        truncated(lambda s: s.run / "experiment.json"),
        ["experiment.json: settings of the run are truncated", "copy"],
    ),
    "no settings": (
        "train",
        lambda s: (s.run / "experiment.json").unlink(),
        ["experiment.json: not found; train this run first"],
    ),
    "a file in place of the results' folder": (
        "train",
        file_for_folder,
        ["seed0/checkpoints: cannot make this folder (Not a directory); check the path, its permissions and the"],
    ),
    "no space for the checkpoint": (
        "train",
        full_disk(torch, "save"),
        ["last.pt: cannot be written (File too large); free some space"],
    ),
    "no space for the weights": (
        "train",
        full_disk(checkpointing, "write_bytes_atomically"),
        ["model.safetensors: cannot be written (File too large); free some space"],
    ),
    "no space for the log": (
        "train",
        full_disk(files, "write_bytes_atomically"),
        ["train.csv: cannot be written (File too large); free some space"],
    ),
    "no space to move": (
        "train",
        lambda s: s.monkeypatch.setattr(os, "replace", no_move),
        ["train.csv: cannot be written (No space left on device); free some space"],
    ),
    "not trained": (
        "detect",
        lambda s: shutil.rmtree(s.seed),
        ["model.safetensors: not found; train this run with seed 0 first"],
    ),
    "weights truncated": (
        "detect",
        truncated(lambda s: s.seed / "model.safetensors"),
        ["model.safetensors: not the weights of this run", "delete the file and train again"],
    ),
    "weights of another head": (
        "detect",
        experiment(head={"channels": 32}),
        ["train.json: facts of another training (run vfnet-varifocal-resnet50-", "put back the files of this training"],
    ),
    "facts incomplete": (
        "detect",
        lambda s: (s.seed / "train.json").write_text("{}"),
        [
            f"train.json: category_ids and class_names are not {CLASSES} ids and names; ",
            "workbench train ",
            "which writes it again",
        ],
    ),
    "facts are a list": (
        "detect",
        lambda s: (s.seed / "train.json").write_text("[]"),
        ["train.json: facts of the training are not an object; delete the file, and run the step"],
    ),
    "facts with NaN": (
        "detect",
        lambda s: (s.seed / "train.json").write_text('{"seconds": NaN}'),
        ["train.json: facts of the training have the number NaN", "write or copy the file again"],
    ),
    "settings with text for a number": (
        "train",
        experiment(training={"learning_rate": "0.01"}),
        ["experiment.json: training.learning_rate: input should be a valid number (found '0.01')"],
    ),
    "settings with true for a number": (
        "train",
        experiment(training={"epochs": True}),
        ["experiment.json: training.epochs: input should be a valid integer (found True)"],
    ),
    "settings nested deeply": (
        "train",
        lambda s: (s.run / "experiment.json").write_text("[" * 100_000),
        ["experiment.json: settings of the run are nested too deeply"],
    ),
    "variant is a pipe": (
        "detect",
        lambda s: (s.variant.unlink(), os.mkfifo(s.variant)),
        ["quick.json: settings of an evaluation cannot be read (this is a pipe or a device, not a file)"],
    ),
    "test image missing": ("detect", lambda s: s.image("val2017").unlink(), ["val2017/", ": no such image; copy"]),
    "no space for detections": (
        "detect",
        full_disk(files, "write_bytes_atomically", 5000),
        ["detections.json: cannot be written (File too large); free some space"],
    ),
    "no space for metrics": (
        "evaluate",
        full_disk(files, "write_bytes_atomically"),
        ["bootstrap.json: cannot be written (File too large); free some space"],
    ),
    "no variant": ("detect", lambda s: s.variant.unlink(), ["quick.json: ", "not found; check the path"]),
    "not detected": (
        "evaluate",
        lambda s: s.detections.unlink(),
        NOT_DETECTED,
    ),
    "detections truncated": (
        "evaluate",
        truncated(lambda s: s.detections),
        ["detections.json: not the detections that detection.json describes", "and detect again"],
    ),
    "annotations truncated later": ("evaluate", truncated(lambda s: s.annotations("val2017")), NOT_DETECTED),
    "annotations removed later": (
        "evaluate",
        lambda s: s.annotations("val2017").unlink(),
        [VAL, "the annotation file cannot be read (No such file or directory); check data_root"],
    ),
    "image removed later": (
        "evaluate",
        document(lambda c: c["images"].pop(), "val2017"),
        NOT_DETECTED,
    ),
    "categories removed later": (
        "evaluate",
        document(lambda c: c["categories"].clear(), "val2017"),
        NOT_DETECTED,
    ),
    "box damaged later": (
        "evaluate",
        entry("annotations", "val2017", bbox=[1, 2, float("nan"), 4]),
        NOT_DETECTED,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_no_result(mistake, scene, capfd):
    command, spoil, expected = MISTAKES[mistake]
    prepare(scene, command)
    image = str(scene.image())
    spoil(scene)
    before = scene.results()
    with pytest.raises(SystemExit) as caught:
        scene.workbench(command)
    message = caught.value.code
    assert isinstance(message, str)
    assert message.startswith("workbench: ")
    assert len(message.splitlines()) == 1
    for piece in expected:
        assert piece.replace("{image}", image) in message
    assert "Traceback" not in capfd.readouterr().err
    assert scene.results() <= before


UNUSUAL = {
    "box partly outside": (entry("annotations", bbox=[-5, -5, 30, 30]), ""),
    "box outside": (entry("annotations", bbox=[5000, 5, 30, 30]), "data: 1 annotations empty or outside their image"),
    "box without a width": (entry("annotations", bbox=[5, 5, 0, 30]), "data: 1 annotations empty or outside their"),
    "box outside in validation": (
        entry("annotations", "val2017", bbox=[5000, 5, 30, 30]),
        "validation data: 1 annotations empty or outside their image",
    ),
    "box of half a pixel": (entry("annotations", bbox=[5, 5, 0.5, 30]), "data: 1 annotations under 1 pixel"),
    "unknown category": (entry("annotations", category_id=999), "data: 1 annotations of unknown categories"),
    "category without annotations": (document(without_category), ""),
    "no annotations in validation": (document(lambda c: c["annotations"].clear(), "val2017"), "val AP n/a"),
    "area as text": (entry("annotations", "val2017", area="300"), "validation data: 'area' of "),
    "crowd as text": (entry("annotations", "val2017", iscrowd="0"), "validation data: 'iscrowd' of "),
    "byte order mark": (lambda s: s.annotations().write_bytes(b"\xef\xbb\xbf" + s.annotations().read_bytes()), ""),
    "half of a surrogate pair in a name": (
        lambda s: [entry("categories", split, name="a\ud800")(s) for split in ("train2017", "val2017")],
        "data: the name 'a\\ud800' contains half of a surrogate pair",
    ),
    "image turned by its EXIF tag": (upside_down, "data: 1 images are turned by their EXIF orientation"),
    "only one image with a box": (
        document(lambda c: c.update(annotations=c["annotations"][-1:])),
        "23 images without",
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_data_train_and_are_reported(case, scene, capfd):
    spoil, expected = UNUSUAL[case]
    spoil(scene)
    scene.workbench("train")
    assert expected in capfd.readouterr().err
    assert (scene.seed / "model.safetensors").is_file()


def test_the_files_of_a_training_have_the_permissions_of_all_files(scene, tmp_path):
    scene.workbench("train")
    scene.workbench("detect")
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    files = [path for path in scene.run.rglob("*") if path.is_file()]
    assert {"model.safetensors", "last.pt", "train.json", "detections.json"} <= {path.name for path in files}
    assert not [path for path in files if path.stat().st_mode != usual and path.name != "lock"]
