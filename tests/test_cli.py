"""The command line: single steps, a user's own images, and mistakes reported in one line."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from tests.few_images import MINI, draw_few
from workbench import cli
from workbench.runs.results import drawn_data, scale_folder
from workbench.settings import files
from workbench.settings.catalog import Rehearsal, load_table
from workbench.settings.variant import Variant
from workbench.support.files import write_json_atomically

WORKBENCH = Path(sys.executable).parent / "workbench"
ROW = "t3_full_vfl"
REHEARSAL = ("--limit-steps", 2, "--limit-images", 4)


def registered_commands():
    """Commands by name, including the commands of groups such as ``bench``."""
    commands = typer.main.get_command(cli.app).commands
    return commands | {name: own for group in commands.values() for name, own in getattr(group, "commands", {}).items()}


def workbench(*arguments, cwd=None):
    return subprocess.run([WORKBENCH, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    """Training of two steps, named by its row, on a drawn data set with few images."""
    results = tmp_path_factory.mktemp("results")
    row = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))[1][3]
    world = drawn_data(results, row.experiment.data, 1)
    world.parent.mkdir()
    world.symlink_to(tiny_data)
    result = workbench("train", "--run", row.id, "--seed", 1, "--results", results, *REHEARSAL)
    assert result.returncode == 0, result.stderr
    assert "2/2  epoch 1/" in result.stderr
    return scale_folder(results, "mini", Rehearsal(2, 4)).training(row, 1)


def test_each_step_by_the_name_of_a_row(trained, tiny_data):
    results = trained.run.results
    for command in ("detect", "evaluate"):
        result = workbench(command, "--run", ROW, "--seed", 1, "--results", results, *REHEARSAL)
        assert result.returncode == 0, result.stderr
    row = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))[1][3]
    evaluation = trained.evaluation(row.evaluation_folder(1))
    metrics = json.loads(evaluation.metrics.read_text())
    assert metrics["images"] == 4
    assert metrics["provenance"]["seed"] == 1
    assert metrics["provenance"]["code_digest"] == metrics["provenance"]["training"]["code_digest"]
    assert metrics["provenance"]["detection"]["variant"]["limit_images"] == 4
    assert metrics["provenance"]["evaluation"]["evaluator"] == "workbench"
    assert set(metrics["provenance"]["evaluation"]["versions"]) == {"python", "pycocotools", "numpy"}
    trained_with, detected_with = (metrics["provenance"][step]["arithmetic"] for step in ("training", "detection"))
    assert trained_with == detected_with
    assert (trained_with["precision"], trained_with["cudnn"]["allow_tf32"]) == ("fp32", False)
    resampled = json.loads(evaluation.bootstrap.read_text())
    assert resampled["AP"] == pytest.approx(metrics["AP"], abs=1e-12)
    assert (resampled["images"], len(resampled["resamples"])) == (4, 1000)
    ids = {
        image["id"] for image in json.loads((tiny_data / "annotations/instances_val2017.json").read_text())["images"]
    }
    assert {entry["image_id"] for entry in json.loads(evaluation.detections.read_text())} <= ids


@pytest.mark.parametrize("folder", ["run", "training"])
def test_a_folder_names_a_run_in_every_command(trained, tmp_path, monkeypatch, folder):
    """The folder is enough to find the drawn data set; the default is the published variant."""
    location = [trained.run.folder, "--seed", 1] if folder == "run" else [trained.folder]
    monkeypatch.chdir(tmp_path)
    for command in ("detect", "evaluate", "ranking", "oracle"):
        monkeypatch.setattr("sys.argv", ["workbench", command, "--run", *map(str, location)])
        cli.main()
    assert len(list(trained.folder.glob("*/metrics.json"))) >= 1
    assert len(list(trained.folder.glob("*/ranking.csv"))) >= 1
    assert len(list(trained.folder.glob("*/oracles.csv"))) >= 1


def test_the_file_for_the_evaluation_server(trained, tiny_data, tmp_path):
    """The split test-dev has no annotations, and its images are in the folder test2017."""
    document = json.loads((tiny_data / "annotations/instances_val2017.json").read_text())
    del document["annotations"]
    write_json_atomically(tmp_path / "data/annotations/image_info_test-dev2017.json", document)
    (tmp_path / "data/test2017").symlink_to(tiny_data / "val2017")
    experiment = trained.run.read_experiment()
    # Few steps give low scores.
    settings = Variant(image=experiment.image, score_threshold=0.0, max_detections=5, limit_images=4)
    variant = tmp_path / "all.json"
    write_json_atomically(variant, settings.model_dump(mode="json"))
    common = ("submission", "--run", trained.folder, "--variant", variant, "--out", tmp_path)
    result = workbench(*common, "--data-root", tmp_path / "data")
    assert result.returncode == 0, result.stderr
    name = f"detections_test-dev2017_{trained.run.name}_results"
    assert result.stdout.strip() == str(tmp_path / f"{name}.zip")
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        assert archive.namelist() == [f"{name}.json"]
        detections = json.loads(archive.read(f"{name}.json"))
    assert len(detections) == 4 * 5
    assert {entry["image_id"] for entry in detections} == {image["id"] for image in document["images"][:4]}
    assert all(entry.keys() == {"image_id", "category_id", "bbox", "score"} for entry in detections)
    result = workbench(*common, "--data-root", tiny_data)
    assert result.returncode == 1
    assert result.stderr.startswith("workbench: ")
    assert "image_info_test-dev2017.json: no such annotation file" in result.stderr


def test_predict_draws_images_and_lists_boxes(trained, tmp_path):
    """One broken picture between two good ones: one line on stderr, and exit code 1."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("1.png", "3.png"):
        Image.new("L", (300, 100), 90).save(pictures / name)
    (pictures / "2.jpg").write_bytes(b"letters")
    result = workbench("predict", pictures, "--run", trained.folder, "--out", tmp_path / "out", "--min-score", 0)
    assert result.returncode == 1
    assert result.stdout.count(" objects; drawn picture: ") == 2
    assert result.stderr.startswith(f"workbench: {pictures}/2.jpg: damaged, or not JPEG")
    assert result.stderr.count("\n") == 1
    assert len(list((tmp_path / "out").glob("*.detections.png"))) == 2
    assert isinstance(json.loads((tmp_path / "out" / "detections.json").read_text()), list)


def in_this_process(monkeypatch, arguments):
    """Run a command that ends with a mistake; return its message or its exit code."""
    monkeypatch.setattr("sys.argv", ["workbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_mistakes_are_one_line(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.jpg").write_bytes(b"not an image")
    of_run, training = ("--run", trained.run.folder), ("--run", trained.folder)
    cases = [
        (("predict", "nowhere.jpg", *training), "nowhere.jpg: no such file or folder"),
        (("predict", tmp_path / "empty", *training), "no pictures; name files or folders"),
        (("predict", tmp_path / "noise.jpg", *training), "noise.jpg: "),
        (("predict", tmp_path / "noise.jpg", *of_run), "train this run with seed 0 first"),
        (("predict", tmp_path / "noise.jpg", "--run", ROW), f"/{trained.run.name[:8]}"),
        (("predict", tmp_path / "noise.jpg", "--run", "t3_full_vlf"), "--run: unknown row 't3_full_vlf'; did you mean"),
        (("predict", tmp_path / "noise.jpg", "--run", "results/x"), "results/x: no such folder; name a row, a run's"),
        (("predict", tmp_path / "noise.jpg", *training, "--seed", 2), "this is the training of seed 1, not of 2"),
        (("detect", *training, "--variant", tmp_path / "none.json"), "none.json: settings of an evaluation not found"),
        (("train", "--run", tmp_path), "experiment.json: not found; train this run first, by the name of a row"),
        (("train", *of_run, "--data-root", tmp_path / "empty"), "an empty folder; choose the folder of a data set"),
        (("oracle", "--run", ROW, "--scale", "coco"), "scale coco needs a data set: add data_root=FOLDER"),
        (
            ("train", "--run", ROW, "--seed", "released"),
            "--seed released: published weights are not trained; give a num",
        ),
        (
            ("train", "--run", ROW, "--seed", 100_003),
            "/world3: this world is not drawn yet; draw it (workbench dataset results/dataset-",
        ),
        (("import-checkpoint", "x.pth", "--run", ROW, "--scale", "coco"), "scale coco needs a data set: add data_root"),
        (("oracle", "--run", ROW), "experiment.json: not found; train this run first"),
        (("plan", "table33"), "unknown table 'table33'; did you mean 'table3'?"),
        (("dataset", tmp_path / "x", "--scale", "coco"), "scale coco has no embedded data set"),
    ]
    monkeypatch.chdir(tmp_path)
    for arguments, expected in cases:
        capsys.readouterr()
        code = in_this_process(monkeypatch, arguments)  # a process of its own would load PyTorch for each case
        said = capsys.readouterr().err + ("" if code == 1 else f"{code}\n")
        assert expected in said
        assert said.startswith("workbench: ")
        assert said.count("\n") == 1
    assert in_this_process(monkeypatch, ["tarin"]) == 2
    assert in_this_process(monkeypatch, ["predict", "x.jpg", "--run", ROW, "--seed", "-1"]) == 2
    result = workbench("predict", "nowhere.jpg", *training, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "workbench: nowhere.jpg: no such file or folder; check the path\n"


def test_an_experiment_of_another_run_is_refused(trained, tmp_path):
    other = trained.run.folder.with_name("vfnet-focal-resnet50-00000000")
    shutil.copytree(trained.run.folder, other)
    result = workbench("predict", tmp_path / "x.png", "--run", other, "--seed", 1)
    assert result.returncode == 1
    assert (
        f"this is the experiment of {trained.run.name}, not of {other.name}; if the folder was renamed" in result.stderr
    )


@pytest.mark.parametrize("command", [c for c in registered_commands() if c not in ("data", "dataset", "pretrain")])
def test_shared_options_are_spelled_the_same_in_every_command(command):
    """Every command with a run or a scale has the same options for them."""
    options = {option for p in registered_commands()[command].params for option in p.opts}
    assert not options & {"--data", "--root"}
    if "--run" in options:
        assert {"--run", "--seed", "--scale", "--data-root", "--results"} <= options
    if "--scale" in options:
        assert "--results" in options


def test_the_help_lists_every_command_in_a_panel_and_the_pipelines_steps_behind_users_commands():
    panels = {name: c.rich_help_panel for name, c in typer.main.get_command(cli.app).commands.items()}
    assert all(panels.values())
    order = list(dict.fromkeys(panels.values()))
    assert order[0] == panels["predict"]
    assert order.index(panels["data"]) < order.index(panels["train"])


def test_each_world_is_drawn_by_its_number(experiments, tmp_path, monkeypatch):
    """Without a number, the world is the scale's, or world 0 where each seed has its own."""
    few = draw_few(experiments, 2, 1).read_text()
    (experiments / "scales/fixed.yaml").write_text(few.replace("world: seed", "world: 7"))
    files.forget()
    for scale, options, world in [("mini", (), 0), ("mini", ("--world", "3"), 3), ("fixed", (), 7)]:
        root = tmp_path / f"{scale}{world}"
        monkeypatch.setattr(sys, "argv", ["workbench", "dataset", str(root), "--scale", scale, *options])
        cli.main()
        expected = MINI.model_copy(update={"world": world, "train_images": 2, "val_images": 1})
        assert (root / "embedded.json").read_text() == expected.model_dump_json(indent=2) + "\n"
    pictures = {file.read_bytes() for file in tmp_path.glob("*/train2017/000000000001.jpg")}
    assert len(pictures) == 3


def test_plan_lists_shared_trainings():
    plan = workbench("plan", "table3", "--scale", "coco").stdout
    assert "5 trainings (one per run) for 5 rows, scale coco" in plan
    assert "t3_full_vfl; shared with table2 (t2_g2p0_a0p75_q)" in plan


def test_the_public_functions():
    import workbench as package

    experiment = package.load_experiment("table3", "t3_full_vfl", "mini")
    detector = package.build_detector(experiment)
    images, sizes = torch.zeros(2, 3, 96, 128), torch.tensor([[96, 128], [90, 100]])
    assert detector.predict(images).boxes.shape == (2, 257, 4)
    assert len(detector.detect(images, sizes, Variant(image=experiment.image, score_threshold=0))) == 2


def test_training_needs_neither_snakemake_nor_jupyter():
    """Training and evaluation work without the tools of the pipeline."""
    code = """
import sys
for name in ("snakemake", "jupyterlab", "jupyter", "IPython", "matplotlib"):
    sys.modules[name] = None
import workbench.cli, workbench.training.loop, workbench.commands.detect, workbench.commands.evaluate
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_the_settings_are_read_without_torch():
    code = "import sys, workbench.settings.catalog, workbench.pipeline.read, workbench.settings.config, workbench.support.devices\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
