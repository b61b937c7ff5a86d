"""Plan of a table: totals, sources of each number, and sizes on disk."""

import csv

import pytest

from tests.trainings import train_experiment
from workbench import cli
from workbench.commands.costs import disk_bytes, epoch_images, find_speed, is_rehearsal, val_images
from workbench.commands.on_disk import read_trainings
from workbench.commands.plan import describe
from workbench.data.coco import read_coco
from workbench.runs.results import ScaleFolder
from workbench.settings.catalog import Rehearsal, load_row, load_table
from workbench.settings.data import CocoData
from workbench.settings.experiment import WeightAveraging
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

FULL = load_row("table3", "t3_full_vfl")
RAW = load_row("table3", "t3_raw_vfl")
ATSS = load_row("table5", "t5_atss_vfl")
EPOCHS, IMAGES = FULL.experiment.training.epochs, FULL.experiment.data.train_images
IMAGE = FULL.experiment.image


def write_training(folder, row, rates, seed=0, finished=True, **facts):
    """Write the files of a training, with the images per second of its log in ``rates``."""
    run = folder / "runs" / row.run
    write_json_atomically(run / "experiment.json", row.experiment.model_dump(mode="json"))
    log = run / f"seed{seed}" / ("" if finished else "checkpoints") / "train.csv"
    log.parent.mkdir(parents=True)
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("step", "epoch", "images_per_second"), *((i + 1, i, rate) for i, rate in enumerate(rates))])
    if finished:
        defaults = {"device": "a toaster", "seconds": 90.0}
        write_json_atomically(log.with_name("train.json"), defaults | facts)
        log.with_name("model.safetensors").touch()


def block(text, row):
    """Return the lines about a run."""
    return next(part for part in text.split("\n\n") if part.startswith(f"{row.run}:"))


def total(text, name):
    """Return a value of the lines with the total."""
    text = text[text.index("To do:") :]
    return next(line.split(name)[1].strip() for line in text.splitlines() if line.startswith(f"    {name}"))


def test_totals_at_mini(tmp_path):
    images = EPOCHS * IMAGES
    text = describe("table3", "mini", tmp_path, None, images_per_second=images / 2000)
    assert f"{EPOCHS} epochs of {IMAGES:,} images ({images:,} in total), batch 8, image size {IMAGE}" in block(
        text, FULL
    )
    assert "33 min at " in block(text, FULL)  # 2,000 s
    assert "t3_full_vfl; shared with table2 (t2_g2p0_a0p75_q), table5 (t5_vfnet_vfl)" in block(text, FULL)
    assert "To do: 5 of 5 trainings" in text
    assert total(text, "GPU-hours") == "2.8"  # 10,000 s
    assert "provisional" not in text
    assert "assumed" not in text


def test_totals_at_coco(tmp_path):
    text = describe("table4", "coco", tmp_path, None, images_per_second=10)
    assert "21 trainings (one per run) for 22 rows, scale coco" in text
    assert "24 epochs of 117,266 images (2.81 million in total), batch 16, image size 1333x640-800" in text
    x = block(text, load_row("table4", "t4_vfnetx_800", "coco"))
    assert "t4_vfnetx_800, t4_vfnetx_1200" in x
    assert "41 epochs and 18 SWA cycles of 117,266 images (6.92 million in total)" in x
    assert "192 h at 10 images per second (--images-per-second)" in x  # 59 × 117,266 / 36,000 = 192.2
    assert total(text, "GPU-hours") == "1,756"  # (20 × 24 + 59) × 117,266 / 36,000 = 1755.7
    assert "117,266 images per epoch are assumed" in text
    assert "Run ids are provisional" in text


def test_unknown_numbers_have_a_note_how_to_get_them(tmp_path):
    text = describe("table3", "mini", tmp_path, None)
    assert "time      unknown\n    memory    unknown\n    disk" in block(text, FULL)
    assert total(text, "GPU-hours") == total(text, "memory") == "unknown"
    assert "give --images-per-second, or measure it: start a training (snakemake --cores all t3_raw_fl " in text
    assert "snakemake --cores all table3 --config scale=mini limit_steps=2 limit_images=4" in text
    text = describe("table3", "bccd", tmp_path, None, images_per_second=8)
    assert total(text, "GPU-hours") == "unknown"
    assert "The number of images per epoch is unknown; give --data-root." in text


def test_finished_trainings_are_not_in_the_total(tmp_path):
    write_training(tmp_path / "mini", FULL, [50], seconds=3600.0, devices=2)
    write_training(tmp_path / "mini", FULL, [50], seed=10)
    write_training(tmp_path / "mini", FULL, [50], seed=2)
    write_training(tmp_path / "mini", RAW, [1, 4, 100, 5, 2], finished=False)
    text = describe("table3", "mini", tmp_path, None)
    assert f"{FULL.run}: done: seed0, seed2, seed10" in text
    assert "time      2.0 h, measured (seed0 on a toaster)" in block(text, FULL)  # an hour on two devices
    assert f"{RAW.run}: in progress: seed0, epoch 5 of {EPOCHS}" in text
    assert "To do: 4 of 5 trainings" in text
    # All images of all epochs, at a median of 4 per second and three times at 50 / 2.
    assert float(total(text, "GPU-hours")) == pytest.approx(EPOCHS * IMAGES * (1 / 4 + 3 / 25) / 3600, abs=0.05)
    whole = describe("table3", "mini", tmp_path / "none", None)
    alone = disk_bytes(FULL.experiment, 1, FULL.experiment.data.val_images)
    assert int(total(whole, "disk").split()[0]) - int(total(text, "disk").split()[0]) == pytest.approx(
        alone / 1e6, abs=1
    )


WRONG_FACTS = {
    "list": "[]",
    "text": '"a"',
    "null": "null",
    "empty": "",
    "time as text": '{"seconds": "90"}',
    "negative time": '{"seconds": -1}',
    "time without a number": '{"seconds": NaN}',
    "memory as text": '{"peak_memory_mb": "700"}',
    "huge memory": '{"peak_memory_mb": 1' + "0" * 400 + "}",
    "device is a list": '{"device": ["a toaster"]}',
    "layout without numbers": '{"micro_batch x ranks x accumulation": "a x b x c"}',
    "no devices": '{"devices": 0}',
    "no device in an earlier version": '{"micro_batch x ranks x accumulation": "8 x 0 x 1"}',
    "layout is a number": '{"micro_batch x ranks x accumulation": 8}',
}
WRONG_LOGS = {
    "letters": "abc\n",
    "empty": "",
    "another column": "step,epoch\n1,0\n",
    "uneven": "step,epoch,images_per_second\n1,0\n",
    "text for a number": "step,epoch,images_per_second\n1,0,fast\n",
    "infinite": "step,epoch,images_per_second\n1,0,inf\n",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [*(("train.json", t) for t in WRONG_FACTS.values()), *(("train.csv", t) for t in WRONG_LOGS.values())],
)
def test_a_file_of_the_wrong_form_is_reported_in_one_line(name, text, tmp_path):
    write_training(tmp_path / "mini", FULL, [4, 5])
    file = next(tmp_path.rglob(name))
    file.write_text(text)
    with pytest.raises(WorkbenchError, match=f"^{file}: ") as error:
        read_trainings(ScaleFolder(tmp_path / "mini"))
    assert "\n" not in str(error.value)


def test_facts_of_earlier_versions_and_of_published_weights_are_read(tmp_path):
    write_training(tmp_path / "mini", FULL, [])
    next(tmp_path.rglob("train.json")).write_text('{"seed": "released", "sha256": "0"}')
    [training] = read_trainings(ScaleFolder(tmp_path / "mini"))
    assert (training.device, training.seconds, training.memory_mb) == ("an unknown device", None, None)


def test_the_best_source_of_the_speed_is_used(tmp_path):
    folder, rehearsal = (tmp_path / name for name in ("mini", "mini-rehearsal"))

    def source(row=FULL, images_per_second=None):
        speed = find_speed(
            row.experiment,
            read_trainings(ScaleFolder(folder)),
            read_trainings(ScaleFolder(rehearsal)),
            images_per_second,
        )
        return speed and (speed.images_per_second, speed.source)

    assert source() is None
    write_training(folder, ATSS, [7])
    write_training(folder, RAW, [6], finished=False)  # another run counts only if it is finished
    assert source() == (7, f"another run, {ATSS.run}, seed0 on a toaster")
    write_training(folder, load_row("table3", "t3_raw_fl"), [9], **{"micro_batch x ranks x accumulation": "2 x 4 x 1"})
    assert source(RAW)[0] == 6
    assert source(load_row("table2", "t2_g1p0_a0p50_q"))[0] == 7
    assert source(load_row("table5", "t5_atss_fl"))[0] == 7  # a training of the same detector is preferred
    assert source(load_row("gfl_table3", "gfl3_qfl_dfl"))[0] in (7, 9 / 4)

    _, (*_, short, _) = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))
    write_training(rehearsal, short, [5], peak_memory_mb=700)
    assert source()[0] == 7  # its steps are of one image
    text = describe("table3", "mini", tmp_path, None)
    assert "memory    peak 700 MiB (rehearsal with one image per step on a toaster)" in block(text, FULL)
    assert total(text, "memory") == (
        "peak 700 MiB (rehearsal with one image per step on a toaster); unknown for 4 trainings"
    )

    _, (*_, whole, _) = load_table("table3", "mini", rehearsal=Rehearsal(images=4))
    write_training(rehearsal, whole, [4])
    assert source() == (4, "its rehearsal, seed0 on a toaster")
    write_training(folder, FULL, [3], finished=False)
    assert source() == (3, "seed0 in progress, one device assumed")
    write_training(folder, FULL, [2], seed=1, peak_memory_mb=900)
    write_training(folder, FULL, [2], seed=2, peak_memory_mb=800)
    assert source() == (2, "seed1 on a toaster")
    assert source(images_per_second=1.5) == (1.5, "--images-per-second")
    assert "memory    peak 900 MiB (seed1 on a toaster)" in describe("table3", "mini", tmp_path, None)


@pytest.mark.parametrize("table", ["table3", "table4", "table5"])
def test_a_rehearsal_is_recognised_at_every_scale(table):
    """At scale coco a canvas has the recipe's two or four images, and in a rehearsal the one image of a step."""
    for scale in ("mini", "coco"):
        rows = load_table(table, scale)[1]
        short = load_table(table, scale, rehearsal=Rehearsal(steps=2, images=4))[1]
        for row, rehearsal in zip(rows, short, strict=True):
            assert is_rehearsal(rehearsal.experiment, row.experiment)
        assert not is_rehearsal(short[0].experiment, rows[1].experiment)


def test_a_note_explains_that_rehearsals_of_single_images_are_not_used(tmp_path):
    _, (*_, short, _) = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))
    write_training(tmp_path / "mini-rehearsal", short, [5])
    assert "The speed of rehearsals is not used" in describe("table3", "mini", tmp_path, None)
    assert "not used" not in describe("table3", "mini", tmp_path, None, images_per_second=8)


def test_images_of_a_data_set_are_counted(tiny_data):
    data = CocoData(classes=24, digest="0" * 32)
    assert epoch_images(data, tiny_data) == len(read_coco(tiny_data, "train2017", training=True).images) > 0
    assert val_images(data, tiny_data) == 6
    assert epoch_images(CocoData(classes=80), None) == 117_266
    assert epoch_images(data, None) is None
    drawn = FULL.experiment.data
    assert (epoch_images(drawn, None), val_images(drawn, None)) == (drawn.train_images, drawn.val_images)


def test_estimated_sizes_agree_with_the_files(tiny_experiment, tiny_data, tmp_path):
    swa = tiny_experiment.training.model_copy(update={"epochs": 1, "swa": WeightAveraging(cycles=1)})
    experiment = tiny_experiment.model_copy(update={"training": swa})
    train_experiment(experiment, tmp_path, tiny_data, seed=0)
    files = [tmp_path / "model.safetensors", *(tmp_path / "checkpoints" / name for name in ("last.pt", "best.pt"))]
    # Zip archives of many small tensors are a little larger.
    assert sum(file.stat().st_size for file in files) == pytest.approx(disk_bytes(experiment, 0, 6), rel=0.05)
    more = disk_bytes(experiment, 2, 6) - disk_bytes(experiment, 0, 6)
    assert more == 2 * 6 * 100 * 90
    plain = disk_bytes(tiny_experiment, 0, 6)
    sgd = tiny_experiment.training.model_copy(update={"optimiser": "sgd"})
    assert disk_bytes(tiny_experiment.model_copy(update={"training": sgd}), 0, 6) == pytest.approx(
        plain * 5 / 7, rel=0.01
    )


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    for number in (0, -1, "nan", "inf"):
        monkeypatch.setattr("sys.argv", ["workbench", "plan", "table3", f"--images-per-second={number}"])
        with pytest.raises(
            SystemExit, match=f"workbench: --images-per-second {number}: not a positive number; give a number above 0"
        ):
            cli.main()
    write_training(tmp_path / "mini", FULL, ["fast"])
    with pytest.raises(
        WorkbenchError, match=r"train\.csv: not a file with loss curves \(row 2 has images_per_second 'fast'"
    ):
        describe("table3", "mini", tmp_path, None)
