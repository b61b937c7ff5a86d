"""Pictures of users: every one is judged for itself, and no file that ``predict`` did not write is replaced."""

import contextlib
import hashlib
import io
import json
import os
import sys

import pytest
import torch
from PIL import Image, PngImagePlugin
from pycocotools.coco import COCO
from safetensors.torch import save_file

from tests.commands.pictures import BROKEN, draw, made
from workbench import cli
from workbench.commands import predict
from workbench.commands.pictures import find_pictures
from workbench.detectors import build_detector
from workbench.runs.results import scale_folder
from workbench.settings.catalog import load_row
from workbench.settings.ids import run_id

ODD_NAMES = ("a|b\n<script>", "中国", "$x$ \\frac", "=1+1", "猫" * 60, "\N{REPLACEMENT CHARACTER}")


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Training of a small VFNet with random weights, and classes with odd names."""
    experiment = load_row("table3", "t3_full_vfl").experiment
    head = experiment.head.model_copy(update={"channels": 16, "norm_groups": 8, "stacked_convs": 1})
    image = experiment.image.model_copy(update={"long": 96, "short": 64})
    experiment = experiment.model_copy(update={"head": head, "image": image})
    run = scale_folder(tmp_path_factory.mktemp("results"), "mini").run(run_id(experiment))
    run.write_experiment(experiment)
    training = run.training(0)
    torch.manual_seed(0)
    ids = [category.id for category in experiment.data.categories]
    names = [*ODD_NAMES, *(category.name for category in experiment.data.categories)][: len(ids)]
    facts = {"category_ids": ids, "class_names": names, "code_digest": "12345678"}
    training.facts.parent.mkdir()
    training.facts.write_text(json.dumps(facts))  # with the half surrogate, which is not UTF-8
    weights = build_detector(experiment).state_dict()
    weights["head.cls_out.bias"].fill_(-1)  # scores that are high enough for detections
    save_file(weights, training.weights)
    return training


@pytest.fixture
def call(training, tmp_path, monkeypatch, capsys):
    """Function that runs ``workbench predict`` in ``tmp_path``, and returns exit code, lines and errors."""
    monkeypatch.chdir(tmp_path)

    def predict(*arguments, out="out"):
        options = ("--run", training.folder, "--out", out, "--min-score", "0.005")
        monkeypatch.setattr(sys, "argv", [str(a) for a in ("workbench", "predict", *arguments, *options)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        errors = [*output.err.splitlines(), *([code] if isinstance(code, str) else [])]
        assert all(line.startswith("workbench: ") for line in errors), errors
        assert bool(code) == bool(errors)
        return errors, output.out.splitlines()

    return predict


def tree(folder, without=()):
    """Digest of every file below a folder."""
    files = [p for p in folder.rglob("*") if p.is_file() and not any(p.is_relative_to(w) for w in without)]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def names(folder):
    return sorted(tree(folder))


def listed(folder):
    return json.loads((folder / "detections.json").read_text(encoding="utf-8"))


def drawn(*pictures):
    return sorted(["detections.json", "images.json", *(f"{name}.detections.png" for name in pictures)])


# --- what is written ----------------------------------------------------------------------------------------------------


def test_detections_are_in_cocos_format(call, tmp_path):
    draw(tmp_path / "photos/b.png", (300, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn the picture by 90 degrees
    draw(tmp_path / "photos/a.jpg", (64, 200), exif=exif)
    (tmp_path / "photos/broken.jpg").write_bytes(b"letters")
    errors, lines = call("photos/b.png", "photos")
    assert [line.partition(":")[0] for line in lines] == ["photos/b.png", "photos/a.jpg"]
    assert len(errors) == 1
    found = listed(tmp_path / "out")
    keys = ["image_id", "category_id", "bbox", "score", "file_name"]
    assert all(list(entry) == keys for entry in found)
    # The broken picture is counted, too, so a repaired picture changes no other id.
    sizes = {1: ("photos/b.png", 300, 100), 2: ("photos/a.jpg", 200, 64)}
    assert {(e["image_id"], e["file_name"]) for e in found} == {(id_, name) for id_, (name, *_) in sizes.items()}
    for entry in found:
        x, y, w, h = entry["bbox"]
        _, width, height = sizes[entry["image_id"]]
        assert min(x, y, w, h) >= 0
        assert x + w <= width + 0.01
        assert y + h <= height + 0.01
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "out/images.json")
        results = coco.loadRes(str(tmp_path / "out/detections.json"))
    assert len(results.anns) == len(found)
    assert {image["id"]: (image["file_name"], image["width"], image["height"]) for image in coco.imgs.values()} == sizes
    assert {entry["category_id"] for entry in found} <= coco.cats.keys()


def test_the_drawing_shows_the_picture_upright(call, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(tmp_path / "turned.jpg", (64, 200), exif=exif)
    call("turned.jpg")
    with Image.open(tmp_path / "out/turned.jpg.detections.png") as image:
        assert image.width > image.height
        assert not image.getexif()


@pytest.mark.parametrize(
    ("files", "arguments", "expected"),
    [
        (["a/1.jpg", "b/x.png"], ["a", "b"], ["a/1.jpg", "b/x.png"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["a/1.jpg", "a/1.png", "a/1.JPEG"], ["a"], ["1.JPEG", "1.jpg", "1.png"]),
        (["a/1.jpg"], ["a", "a/1.jpg", "a/../a/1.jpg", "./a"], ["1.jpg"]),
        (["a/b/c/1.jpg", "a/2.jpg"], ["a"], ["2.jpg", "b/c/1.jpg"]),
        (["1.jpg", "a/2.jpg"], ["{here}/a/../1.jpg", "a"], ["1.jpg", "a/2.jpg"]),
        (["1.jpg"], ["{here}/1.jpg"], ["1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["{here}/a", "b/../b"], ["a/1.jpg", "b/1.jpg"]),
        (["a/.hidden/1.jpg", "a/._1.jpg", "a/2.jpg"], ["a"], ["2.jpg"]),
        (["a/x.jpg/1.jpg"], ["a"], ["x.jpg/1.jpg"]),
        (["a/x y.jpg", "a/ü€猫.jpg", "a/-n.jpg"], ["a"], ["-n.jpg", "x y.jpg", "ü€猫.jpg"]),
    ],
)
def test_drawings_keep_the_folder_structure(call, tmp_path, files, arguments, expected):
    for file in files:
        draw(tmp_path / file, format="JPEG" if file.lower().endswith("g") and "png" not in file else None)
    before = tree(tmp_path)
    errors, lines = call(*(a.format(here=tmp_path) for a in arguments))
    assert (errors, len(lines)) == ([], len(expected))
    assert names(tmp_path / "out") == drawn(*expected)
    assert tree(tmp_path, [tmp_path / "out"]) == before


def test_links_are_followed_and_each_folder_is_searched_once(call, tmp_path):
    draw(tmp_path / "a/1.jpg")
    draw(tmp_path / "elsewhere/2.jpg")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    (tmp_path / "a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/self").symlink_to("self")
    errors, lines = call("a")
    assert (errors, len(lines)) == ([], 2)
    assert names(tmp_path / "out") == drawn("1.jpg", "again/2.jpg")


def test_long_names_are_cut(call, tmp_path):
    stems = ["ü" * 120 + end for end in "ab"]
    for stem in stems:
        draw(tmp_path / f"a/{stem}.jpg")
    errors, lines = call("a")
    assert (errors, len(lines)) == ([], 2)
    assert len(names(tmp_path / "out")) == 4


def test_names_that_are_not_utf_8(call, tmp_path, monkeypatch):
    raw = os.fsencode(tmp_path / "a") + b"/\xff\n.jpg"
    draw(tmp_path / "a/x.jpg").rename(os.fsdecode(raw))
    errors, (line,) = call("a")
    assert not errors
    assert line.startswith(r"a/\xff\x0a.jpg: ")
    assert {entry["file_name"] for entry in listed(tmp_path / "out")} == {"a/\\xff\n.jpg"}


# --- nothing of the user's is replaced ------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [".", "photos", "photos/out", "out"])
def test_the_users_files_stay_and_a_second_call_replaces_its_own(call, tmp_path, out):
    for name in ("photos/x.png", "photos/sub/x.png", "photos/sub/x.jpg"):
        draw(tmp_path / name)
    before = tree(tmp_path)
    assert call("photos", out=out)[0] == []
    first = tree(tmp_path)
    assert first | before == first
    assert len(first) == len(before) + 5
    assert call("photos", out=out)[0] == []
    assert tree(tmp_path) == first  # the drawings are not taken for pictures
    draw(tmp_path / "photos/x.png", colour=(10, 200, 60), size=(50, 50))
    assert call("photos", out=out)[0] == []
    changed = {name for name, digest in tree(tmp_path).items() if first[name] != digest}
    drawing = next(name for name in first if name.endswith("x.png.detections.png") and "sub/" not in name)
    assert changed == {"photos/x.png", drawing, *(n for n in first if n.endswith(("images.json", "detections.json")))}


def test_drawings_in_another_output_folder_are_no_pictures(call, tmp_path):
    draw(tmp_path / "photos/x.png")
    call("photos", out="photos/first")
    assert len(call("photos", out="photos/second")[1]) == 1


FOREIGN = {
    "detections.json": lambda out: made(out / "detections.json", b"[]"),
    "images.json": lambda out: made(out / "images.json", b'{"info": {"sha256": "x"}}'),
    "images.json of a wrong form": lambda out: made(out / "images.json", b"[" * 100_000),
    "drawing": lambda out: draw(out / "x.png.detections.png"),
    "text": lambda out: made(out / "x.png.detections.png"),
    "folder": lambda out: (out / "x.png.detections.png").mkdir(parents=True),
    "pipe": lambda out: (out.mkdir(), os.mkfifo(out / "x.png.detections.png")),
    "pipe for a list": lambda out: (out.mkdir(), os.mkfifo(out / "detections.json")),
    "link": lambda out: (out.mkdir(), (out / "x.png.detections.png").symlink_to("../photos/x.png")),
    "broken link": lambda out: (out.mkdir(), (out / "detections.json").symlink_to("nowhere")),
    "file in the place of the folder": made,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused_before_any_work(call, tmp_path, name, monkeypatch):
    draw(tmp_path / "photos/x.png")
    draw(tmp_path / "photos/y.png")
    FOREIGN[name](tmp_path / "out")
    before = tree(tmp_path)
    monkeypatch.setattr(predict, "load_training", None)  # work would end in a traceback
    (error,), lines = call("photos")
    assert not lines
    assert error.startswith("workbench: out")
    assert "--out" in error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["detections.json", "images.json", "x.png.detections.png"])
def test_own_files_that_the_user_has_changed_are_not_replaced(call, tmp_path, name):
    draw(tmp_path / "photos/x.png")
    call("photos")
    file = tmp_path / "out" / name
    if file.suffix == ".json":
        file.write_text(file.read_text().replace("1", "2"))
    else:
        with Image.open(file) as image:
            image.load()
            marked, info = image.copy(), image.info
        marked.putpixel((0, 0), (1, 2, 3))
        text = PngImagePlugin.PngInfo()
        text.add_text(predict.MARK, info[predict.MARK])
        marked.save(file, pnginfo=text)
    before = tree(tmp_path)
    (error,), _ = call("photos")
    assert name in error
    assert "changed since" in error
    assert tree(tmp_path) == before


def test_a_call_that_is_killed_between_its_two_lists_does_not_block_the_next(call, tmp_path, monkeypatch):
    draw(tmp_path / "photos/x.png")
    call("photos")
    earlier = (tmp_path / "out/detections.json").read_bytes()
    draw(tmp_path / "photos/x.png", colour=(1, 250, 3), size=(80, 20))
    call("photos")
    for _ in range(2):
        (tmp_path / "out/detections.json").write_bytes(earlier)
        assert call("photos")[0] == []


def test_a_read_only_folder_is_refused_before_any_work(call, tmp_path, monkeypatch):
    draw(tmp_path / "photos/x.png")
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)  # root may write everywhere
    (error,), lines = call("photos", out="new/out")
    assert not lines
    assert "no permission to write; choose another folder with --out" in error
    assert not (tmp_path / "new").exists()


# --- every picture is judged for itself -----------------------------------------------------------------------------------


def test_the_rest_goes_on(call, tmp_path, tmp_path_factory):
    """Broken pictures before and after good ones, and a file that does not exist: one line each."""
    broken = tmp_path_factory.mktemp("broken")
    for name, (make, _) in BROKEN.items():
        make(broken / name)
    draw(tmp_path / "good/1.png")
    draw(tmp_path / "good/2.png")
    before = tree(tmp_path)
    errors, lines = call("nowhere.jpg", "good/1.png", broken, "good/2.png")
    assert len(lines) == 2
    assert len(errors) == len(BROKEN) + 1
    assert {entry["file_name"] for entry in listed(tmp_path / "out")} == {"good/1.png", "good/2.png"}
    assert {entry["image_id"] for entry in listed(tmp_path / "out")} == {2, len(BROKEN) + 3}
    assert tree(tmp_path, [tmp_path / "out"]) == before


def test_nothing_is_written_if_no_picture_can_be_read(call, tmp_path):
    draw(tmp_path / "good.png")
    call("good.png")
    before = tree(tmp_path)
    made(tmp_path / "bad/x.png", b"letters")
    errors, lines = call("bad", "nowhere.png")
    assert (len(errors), lines) == (2, [])
    assert tree(tmp_path / "out") == {n.removeprefix("out/"): d for n, d in before.items() if n.startswith("out/")}
    (tmp_path / "none").mkdir()
    assert "no pictures; name files or folders" in call("none", out="other")[0][0]
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    draw(tmp_path / "a/1.png")
    draw(tmp_path / "a/closed/2.png")
    real = os.listdir

    def listdir(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))  # root may read everything
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    pictures, errors = find_pictures([tmp_path / "a"], tmp_path / "out", lambda path: False)
    assert [picture.path.name for picture in pictures] == ["1.png"]
    assert [str(e) for e in errors] == [
        f"{tmp_path / 'a/closed'}: Permission denied; check the path and its permissions"
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3000, 2)])
def test_extreme_sizes_are_drawn(call, tmp_path, size):
    draw(tmp_path / "x.png", size)
    assert call("x.png")[0] == []


def test_a_gpu_is_used_if_there_is_one(training, tmp_path, monkeypatch):
    """Without a GPU, PyTorch refuses to move the detector to the GPU that is said to exist."""
    draw(tmp_path / "x.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|NVIDIA"):
        list(predict.predict_images([tmp_path / "x.png"], training, tmp_path / "out", 0.5))
