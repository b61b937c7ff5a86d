"""The digest covers the code that a run uses, and nothing else."""

import re
import shutil
from pathlib import Path

import pytest

from workbench.settings.catalog import load_table
from workbench.settings.files import table_names
from workbench.support import code_digest as module
from workbench.support.code_digest import DETECTION, EVALUATION, TRAINING, code_digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def experiments():
    """Name of a family, a loss or a kind of data → an experiment with it, at both scales."""
    found = {}
    for scale in ("mini", "coco"):
        for name in table_names():
            for row in load_table(name, scale)[1]:
                experiment = row.experiment
                for key in (experiment.detector.family, experiment.loss.name, experiment.data.kind):
                    found.setdefault(key, experiment)
    assert len(found) == 10
    return found


@pytest.fixture(scope="module")
def before(experiments):
    """Digests of the experiments with the package as it is."""
    return digests(experiments)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Copy of the package, which a test may edit."""
    shutil.copytree(module.PACKAGE, tmp_path / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "workbench")
    module._parts.cache_clear()
    yield tmp_path / "workbench"
    module._parts.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old}"
    path.write_text(text.replace(old, new, 1))


def digests(experiments, roots=TRAINING) -> dict[str, str]:
    module._parts.cache_clear()
    return {name: code_digest(experiment, roots) for name, experiment in experiments.items()}


def a_loss_as_documented(package):
    page = (ROOT / "docs" / "your_loss.md").read_text()
    definition = re.search(r"```python\n(class .*?)```", page, re.DOTALL)[1]
    name = re.search(r'`("\w+": \w+)`', page)[1]
    file = package / "losses" / "classification.py"
    edit(file, "CLASSIFICATION_LOSSES = {", f"{definition}\n\nCLASSIFICATION_LOSSES = {{")
    edit(file, '"varifocal": VarifocalLoss}', f'"varifocal": VarifocalLoss, {name}}}')


def a_detector_as_documented(package):
    text = (package / "detectors" / "foveabox.py").read_text()
    text = text.replace("FOVEABOX_FAMILY", "MINE_FAMILY").replace("FoveaBox(", "Mine(").replace("(FoveaBox,", "(Mine,")
    text = text.replace("import FoveaBox\n", "import Mine\n").replace("assigners.foveabox", "assigners.mine")
    (package / "detectors" / "mine.py").write_text(text.replace("0.4", "0.5"))
    text = (package / "assigners" / "foveabox.py").read_text()
    (package / "assigners" / "mine.py").write_text(text.replace("SIGMA = ", "SIGMA = 2 * "))
    settings = package / "settings" / "detectors.py"
    definition = re.search(r"class FoveaBox.*?\n\n\n", settings.read_text(), re.DOTALL)[0]
    mine = definition.replace("class FoveaBox", "class Mine").replace('"foveabox"', '"mine"')
    edit(settings, "AnyDetector = ", f"{mine}AnyDetector = ")
    edit(settings, "FoveaBox | RepPoints", "FoveaBox | Mine | RepPoints")
    families = package / "detectors" / "__init__.py"
    edit(
        families,
        "from workbench.detectors.pred",
        "from workbench.detectors.mine import MINE_FAMILY\nfrom workbench.detectors.pred",
    )
    edit(families, "FOVEABOX_FAMILY, REPPOINTS_FAMILY", "FOVEABOX_FAMILY, REPPOINTS_FAMILY, MINE_FAMILY")


def a_kind_of_data(package):
    file = package / "settings" / "data.py"
    edit(file, "AnyData = ", 'class Other(Settings):\n    kind: Literal["other"] = "other"\n\n\nAnyData = ')
    edit(file, "CocoData | EmbeddedData", "CocoData | EmbeddedData | Other")


def a_setting_of_the_new_detector(package):
    a_detector_as_documented(package)
    file = package / "settings" / "experiment.py"
    edit(file, "class Head(", "class Extra(Settings):\n    size: int = 3\n\n\nclass Head(")
    edit(file, "    stacked_convs: int", "    extra_size: Extra | None = None\n    stacked_convs: int")
    (package / "detectors" / "mine.py").open("a").write("\n\ndef f(head):\n    return head.extra_size\n")


def functions_everywhere(package):
    for path in package.rglob("*.py"):
        path.open("a").write("\n\nUNUSED_NUMBER = 3\n\n\ndef unused_function(x):\n    return UNUSED_NUMBER * x\n")


def comments_and_docstrings(package):
    head = package / "detectors" / "vfnet.py"
    edit(head, "OFFSET_GRADIENT = 0.1", "# why\n\nOFFSET_GRADIENT = 0.1  # a tenth")
    edit(head, '"""', '"""Another docstring. ')
    edit(head, "\nclass ", "\nimport sys\n\n\nclass ")


def another_file(package):
    (package / "assigners" / "atss.py").rename(package / "detectors" / "by_statistics.py")
    for path in (package / "detectors").glob("*.py"):
        path.write_text(path.read_text().replace("workbench.assigners.atss", "workbench.detectors.by_statistics"))


def another_place_of_a_function(package):
    source, target = package / "boxes.py", package / "losses" / "regression.py"
    function = re.search(r"^def pairwise_iou\(.*?(?=^def )", source.read_text(), re.DOTALL | re.MULTILINE)[0]
    source.write_text(source.read_text().replace(function, ""))
    text = target.read_text().replace("import aligned_giou", "import aligned_giou, aligned_iou")
    target.write_text(f"{text}\n\n{function}")
    file = package / "assigners" / "max_iou.py"
    edit(file, "from workbench.boxes import pairwise_iou", "from workbench.losses.regression import pairwise_iou")


def other_rooms(package):
    edit(package / "cli.py", "def main", "def other")
    edit(package / "report" / "tables" / "cells.py", "not run", "not yet run")
    edit(package / "evaluation" / "effects.py", "LEVEL = 0.95", "LEVEL = 0.9")
    edit(package / "settings" / "catalog.py", '"1x"', '"2x"')


NO_CHANGES = [
    a_loss_as_documented,
    a_detector_as_documented,
    a_kind_of_data,
    a_setting_of_the_new_detector,
    functions_everywhere,
    comments_and_docstrings,
    another_file,
    another_place_of_a_function,
    other_rooms,
]


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_no_run_uses_changes_no_digest(change, package, experiments, before):
    change(package)
    assert digests(experiments) == before


ALL = {"vfnet", "atss", "retinanet", "foveabox", "reppoints"}
"""Families of detectors."""
CHANGES = {  # file, old text, new text: parts that change
    "constant of a family": ("detectors/vfnet.py", "OFFSET_GRADIENT = 0.1", "OFFSET_GRADIENT = 0.2", {"vfnet"}),
    "constant of an assigner": ("assigners/atss.py", "TOPK = 9", "TOPK = 8", {"vfnet", "atss"}),
    "formula of a loss": ("losses/classification.py", "2 * p * target", "3 * p * target", {"focal"}),
    "fact of a loss": ("losses/classification.py", "counts_padding: ClassVar[bool] = True", "counts_padding: ClassVar[bool] = False", {"varifocal"}),
    "default of a loss": ("losses/classification.py", "alpha: float = Field(0.75", "alpha: float = Field(0.5", {"varifocal"}),
    "base class of the losses": ("losses/classification.py", "raise NotImplementedError", "return logits", {"focal", "quality_focal", "varifocal", *ALL}),
    "default of a family": ("settings/detectors.py", "nms_iou: ClassVar[float] = 0.6", "nms_iou: ClassVar[float] = 0.5", {"vfnet"}),
    "default of a shared setting": ("settings/experiment.py", "bias_weight_decay: bool = True", "bias_weight_decay: bool = False", {"shared"}),
    "default of a setting that some families read": ("settings/experiment.py", "anchor_scale: float = Field(8.0", "anchor_scale: float = Field(4.0", ALL),
    "validator of a setting": ("settings/experiment.py", "self.channels % self.norm_groups", "self.norm_groups % self.channels", {"shared"}),
    "function that all use": ("boxes.py", "def area(boxes", "def area(box, boxes", {"shared"}),
    "constant through a module's name": ("data/transforms.py", "STRIDE = 32", "STRIDE = 64", {"shared"}),
    "step": ("training/step.py", "def take_step(", "def take_step(unused, ", {"shared"}),
    "schedule": ("training/schedule.py", "MOMENTUM = 0.9", "MOMENTUM = 0.8", {"shared"}),
    "drawing": ("data/shapes.py", "MARGIN = ", "MARGIN = 2 * ", {"embedded"}),
    "choice of another class": ("losses/classification.py", '"focal": FocalLoss', '"focal": None', {"shared", "focal"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_of_used_code_changes_the_parts_that_use_it(case, package, experiments, before):
    file, old, new, expected = CHANGES[case]
    edit(package / file, old, new)
    after = digests(experiments)
    parts = {
        one.split(":")[0]
        for name in experiments
        for one, other in zip(before[name].split(), after[name].split(), strict=True)
        if one != other
    }
    assert parts == expected
    for name in experiments:
        used = {part.split(":")[0] for part in before[name].split()}
        assert (before[name] != after[name]) == bool(used & expected)


def test_the_digest_of_the_evaluation_covers_resamples(package, experiments, before):
    evaluation = digests(experiments, EVALUATION)
    edit(package / "evaluation" / "intervals.py", "RESAMPLES = ", "RESAMPLES = 2 * ")
    after = digests(experiments, EVALUATION)
    assert all(evaluation[name] != after[name] for name in experiments)
    assert digests(experiments) == before


def test_the_digest_of_the_evaluation_covers_the_rank_correlation(package, experiments, before):
    evaluation = digests(experiments, EVALUATION)
    edit(package / "evaluation" / "ranking.py", "< 2 for", "< 3 for")
    after = digests(experiments, EVALUATION)
    assert all(evaluation[name] != after[name] for name in experiments)
    assert digests(experiments) == before


def test_the_digest_of_the_detection_covers_inference_but_no_metric(package, experiments):
    detection = digests(experiments, DETECTION)
    edit(package / "evaluation" / "precision.py", "np.cumsum(", "1 * np.cumsum(")
    assert digests(experiments, DETECTION) == detection
    edit(
        package / "detectors" / "postprocess.py",
        "scores > variant.score_threshold",
        "scores >= variant.score_threshold",
    )
    after = digests(experiments, DETECTION)
    assert all(detection[name] != after[name] for name in experiments)


def test_the_parts_are_named(experiments):
    names = [part.split(":")[0] for part in code_digest(experiments["vfnet"]).split()]
    assert names == ["shared", "embedded", "varifocal", "vfnet"] or names == ["shared", "embedded", "focal", "vfnet"]
    assert all(re.fullmatch(r"\w+:[0-9a-f]{8}", part) for part in code_digest(experiments["vfnet"]).split())


def test_a_missing_entry_point_is_an_error(package, experiments):
    edit(package / "training" / "loop.py", "def train(", "def learn(")
    with pytest.raises(LookupError, match=r"training\.loop\.train"):
        digests(experiments)


def test_every_room_exists(package, experiments):
    for room in module.ROOMS:
        (package / room).rename(package / "hidden")
        with pytest.raises(OSError, match=room):
            digests(experiments)
        (package / "hidden").rename(package / room)
