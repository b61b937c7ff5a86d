"""Scene of tests with damaged data: a copy of a data set, a run to train on it, and functions that damage both."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from workbench import cli
from workbench.settings.experiment import Experiment
from workbench.settings.ids import run_id
from workbench.settings.variant import Variant
from workbench.support.files import write_json_atomically

RESULTS = {"model.safetensors", "detections.json", "metrics.json", "bootstrap.json"}
"""Files with which a step counts as done."""
NOT_DETECTED = [
    "/seed0/nms0.6-",
    "no detections with this variant, on these images and annotations; run workbench detect",
]
"""Parts of the message about detections that are missing or of other images."""


@dataclass
class Scene:
    """Copy of a data set, and a run to train on it."""

    root: Path
    run: Path
    experiment: Experiment
    monkeypatch: pytest.MonkeyPatch

    @property
    def seed(self) -> Path:
        return self.run / "seed0"

    @property
    def variant(self) -> Path:
        return self.run.parent / "quick.json"

    def annotations(self, split: str = "train2017") -> Path:
        return self.root / "annotations" / f"instances_{split}.json"

    def image(self, split: str = "train2017") -> Path:
        return min((self.root / split).iterdir())

    @property
    def detections(self) -> Path:
        return next(self.seed.glob("*/detections.json"))

    def write_experiment(self, content: dict) -> None:
        """Write ``experiment.json``; if the content is a valid experiment, rename the folder to its run's name."""
        write_json_atomically(self.run / "experiment.json", content)
        with contextlib.suppress(ValidationError):
            self.run = self.run.rename(self.run.with_name(run_id(Experiment.model_validate(content))))

    def shorten(self, **training) -> None:
        """Write the scene's experiment with other settings of the training."""
        content = self.experiment.model_dump(mode="json")
        self.write_experiment(content | {"training": content["training"] | training})

    def workbench(self, command: str) -> None:
        variant = [] if command == "train" else ["--variant", self.variant]
        arguments = ["workbench", command, "--run", self.run, *variant, "--data-root", self.root, "--workers", 0]
        arguments = arguments[:-2] if command == "evaluate" else arguments
        self.monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        cli.main()

    def results(self) -> set[Path]:
        """Files with which a step counts as done, and temporary files that were not removed."""
        paths = self.run.rglob("*")
        return {path for path in paths if path.name in RESULTS or path.suffix in (".partial", ".tmp")}


def make_scene(data: Path, experiment: Experiment, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Copy a data set into a folder, and write a run of one epoch and a variant that keeps all boxes."""
    shutil.copytree(data, folder / "data")
    scene = Scene(folder / "data", folder / "run", experiment, monkeypatch)
    scene.shorten(epochs=1)
    write_json_atomically(scene.variant, Variant(image=experiment.image, score_threshold=0).model_dump(mode="json"))
    return scene


def prepare(scene: Scene, command: str) -> None:
    """Run the commands before ``command``; the training has one step."""
    if command == "train":
        return
    scene.shorten(epochs=1, limit_steps=1)
    scene.workbench("train")
    if command == "evaluate":
        scene.workbench("detect")


# Damages to a scene. Each function below takes the scene and damages it, or returns a function that does so.


def document(change, split="train2017"):
    """Parse the annotation file, change it and write it again."""

    def spoil(scene: Scene) -> None:
        content = json.loads(scene.annotations(split).read_text())
        change(content)
        scene.annotations(split).write_text(json.dumps(content))

    return spoil


def entry(key, split="train2017", **changes):
    """Change values of the first entry of a list, without the entries of crowds."""
    return document(lambda content: next(e for e in content[key] if not e.get("iscrowd")).update(changes), split)


def experiment(**changes):
    """Change groups of settings in ``experiment.json``."""

    def spoil(scene: Scene) -> None:
        content = json.loads((scene.run / "experiment.json").read_text())
        for group, values in changes.items():
            content[group] = content[group] | values if isinstance(values, dict) else values
        scene.write_experiment(content)

    return spoil


def stated(name: str, **facts):
    """Change facts in a JSON file of the evaluation."""

    def spoil(scene: Scene) -> None:
        path = scene.detections.with_name(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    return spoil


def truncated(which):
    """Cut a file to its first half."""

    def spoil(scene: Scene) -> None:
        path = which(scene)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


def full_disk(module, name, size=100):
    """Limit files to ``size`` bytes while a function runs, so that its writing fails midway, even in native code."""

    def spoil(scene: Scene) -> None:
        scene.monkeypatch.setattr(module, name, limited(getattr(module, name)))

    def limited(write):
        def wrapper(*arguments, **options):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                return write(*arguments, **options)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        return wrapper

    return spoil


def without_category(content: dict) -> None:
    category = content["categories"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != category]


def swapped_names(content: dict) -> None:
    one, other = content["categories"][:2]
    one["name"], other["name"] = other["name"], one["name"]


def upside_down(scene: Scene) -> None:
    """Store an image turned by 180 degrees, and set its EXIF orientation."""
    exif = Image.Exif()
    exif[274] = 3
    with Image.open(scene.image()) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(scene.image(), exif=exif)


def twice(key):
    return document(lambda content: content[key].append(content[key][0]))


def emptied(*keys):
    return document(lambda content: content.update({key: [] for key in keys}))


def resized(scene: Scene) -> None:
    Image.new("RGB", (50, 40)).save(scene.image())


def file_for_folder(scene: Scene) -> None:
    scene.seed.write_text("")


def checkpoint_of_another_head(scene: Scene) -> None:
    scene.workbench("train")
    for path in scene.results():
        path.unlink()
    experiment(head={"channels": 32})(scene)


def truncated_checkpoint(scene: Scene) -> None:
    scene.workbench("train")
    for path in scene.results():
        path.unlink()
    truncated(lambda scene: scene.seed / "checkpoints" / "last.pt")(scene)


def no_move(_source, target) -> None:
    raise OSError(28, "No space left on device", str(target))


def assert_one_line(scene: Scene, capfd: pytest.CaptureFixture, command: str, spoil, expected: list[str]) -> None:
    """Check that a command ends in one line with the expected parts and leaves no result, after damage to the scene.

    Args:
        spoil: function that damages the scene.
        expected: parts of the message; ``{image}`` is the path of the first image.
    """
    prepare(scene, command)
    image = str(scene.image())
    spoil(scene)
    before = scene.results()
    with pytest.raises(SystemExit) as caught:
        scene.workbench(command)
    message = caught.value.code
    assert isinstance(message, str), message
    assert message.startswith("workbench: "), message
    assert len(message.splitlines()) == 1, message
    for piece in expected:
        assert piece.replace("{image}", image) in message, message
    assert "Traceback" not in capfd.readouterr().err
    assert scene.results() <= before
