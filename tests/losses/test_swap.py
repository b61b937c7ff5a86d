"""Losses and detectors know nothing of each other: no detector names a loss, and a new loss is one class, one name and
one row, as the README shows it, for every detector there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from workbench.losses.classification import CLASSIFICATION_LOSSES

ROOT = Path(__file__).resolve().parents[2]
DETECTORS = sorted((ROOT / "workbench" / "detectors").glob("*.py"))


def loss_words():
    names = {*CLASSIFICATION_LOSSES, *(cls.__name__ for cls in CLASSIFICATION_LOSSES.values())}
    return sorted({name.lower() for name in names} | {"vfl", "qfl", "use_"})


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_no_detector_names_a_classification_loss(path):
    text = path.read_text()
    assert [word for word in loss_words() if word in text.lower()] == []
    # Nor does it ask in another way which one it has.
    imported = re.findall(r"from workbench\.losses\.classification import (.*)", text)
    assert set(imported) <= {"ClassificationLoss"}
    assert not re.search(r"loss\.name|type\(\S*loss|isinstance\(\S*loss", text)


def test_the_words_are_those_of_the_losses():
    assert {"focal", "quality_focal", "varifocal", "focalloss", "qualityfocalloss", "varifocalloss"} <= {*loss_words()}
    assert len(DETECTORS) > 5


# A new loss, as the README says.


def readme_block(language, containing):
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "your_loss.md").read_text(), re.DOTALL)
    (block,) = [b for b in blocks if containing in b]
    return block


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of package and experiments with the README's class, its name, and its row for every recipe."""
    root = tmp_path_factory.mktemp("swap")
    for folder in ("workbench", "experiments"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = readme_block("python", "(ClassificationLoss):")
    row = readme_block("yaml", "loss: {name:")
    class_name, name = re.search(r"class (\w+)", source)[1], re.search(r'Literal\["(\w+)"\]', source)[1]
    assert len([line for line in source.splitlines() if line.strip()]) <= 10

    path = root / "workbench" / "losses" / "classification.py"
    before, dictionary, after = re.split(r"(?<=\n)(CLASSIFICATION_LOSSES = \{.*?\})", path.read_text(), flags=re.DOTALL)
    path.write_text(f'{before}{source}\n\n{dictionary[:-1].rstrip(", ")}, "{name}": {class_name}}}{after}')

    recipes = re.findall(r"^(\w+):", (ROOT / "experiments" / "recipes.yaml").read_text(), re.MULTILINE)
    row_id, base = re.search(r"^  (\w+):", row)[1], re.search(r"base: (\w+)", row)[0]
    rows = [row.replace(row_id, f"own_{recipe}").replace(base, f"base: {recipe}") for recipe in recipes]
    with (root / "experiments" / "vfnet" / "table3.yaml").open("a") as table:
        table.write("".join([row, *rows]))
    return root, class_name, row_id


STEP = """
import json, torch, workbench
from pathlib import Path
from workbench.settings.catalog import load_table
from workbench.data.batch import Batch
from workbench.detectors import FAMILIES, build_detector
from workbench.training.schedule import make_optimiser

assert Path(workbench.__file__).is_relative_to(Path.cwd()), "not the copy"
torch.set_num_threads(1)
sizes = torch.tensor([[96, 128], [60, 100]])
boxes = torch.tensor([[[10.0, 8, 60, 70], [70, 20, 100, 44]], [[5, 5, 55, 50], [0, 0, 0, 0]]])
valid = boxes.any(-1)
batch = Batch(torch.randn(2, 3, 96, 128), boxes, valid.long(), valid, sizes, sizes, (1, 2), ("a", "b"))
for row in load_table("table3")[1]:
    if row.labels.keys() != {"model"} or row.experiment.detector.family not in FAMILIES:
        continue
    found = {"row": row.id, "family": row.experiment.detector.family, "loss": type(row.experiment.loss).__name__}
    loss = row.experiment.loss
    for epsilon, count in ((loss.epsilon, 2), (50.0, 1)):
        torch.manual_seed(0)
        changes = {
            "loss": loss.model_copy(update={"epsilon": epsilon}),
            "head": row.experiment.head.model_copy(update={"channels": 16, "norm_groups": 8, "stacked_convs": 1}),
        }
        own = row.experiment.model_copy(update=changes)
        detector = build_detector(own).train()
        optimiser = make_optimiser(own.training, detector, own.training.learning_rate)
        steps = []
        for _ in range(count):
            terms = detector.loss(batch)
            optimiser.zero_grad()
            sum(terms.values()).backward()
            optimiser.step()
            steps.append({key: value.item() for key, value in terms.items()})
        found[f"steps {epsilon:g}"] = steps
    print(json.dumps(found))
print(json.dumps(sorted(FAMILIES)))
"""


def run(copy, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=copy[0], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_new_loss_is_one_class_one_name_and_one_row(copy):
    *lines, families = [json.loads(line) for line in run(copy, STEP)]
    assert {line["family"] for line in lines} == set(families)
    assert {line["row"] for line in lines} >= {copy[2], "own_vfnet", "own_atss", "own_gfl"}
    for line in lines:
        assert line["loss"] == copy[1]
        first, second = line["steps 1"]
        assert all(abs(value) < 1e6 for value in (*first.values(), *second.values())), line  # finite, too
        assert first != second  # it learns
        assert line["steps 50"][0]["cls"] > 2 * first["cls"] > 0  # it is that loss which is computed
        assert line["steps 50"][0].keys() == first.keys()


def test_settings_of_a_new_loss_are_checked_and_name_its_runs(copy):
    code = """
        from workbench.settings.catalog import load_row
        from workbench.support.errors import WorkbenchError
        print(load_row("table3", "own_atss").run)
        from workbench.settings import files
        table = files.catalogue().folder / "vfnet" / "table3.yaml"
        table.write_text(table.read_text().replace("epsilon: 1.0", "epsilom: 1.0"))
        files.forget()  # the catalogue has read the table before
        try:
            load_row("table3", "own_atss")
        except WorkbenchError as error:
            print(error)
        table.write_text(table.read_text().replace("epsilom: 1.0", "epsilon: 1.0"))
    """
    name, mistake = run(copy, textwrap.dedent(code))
    assert name.startswith("atss-poly-resnet50-")
    assert mistake.endswith("loss.epsilom: unknown key; did you mean 'epsilon'? (known: name, epsilon)")
