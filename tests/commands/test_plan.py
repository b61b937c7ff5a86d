"""What a table will cost: sums by hand, where each figure is taken from, and sizes as they are on the disk."""

import csv

import pytest

from tests.trainings import train_experiment
from workbench import cli
from workbench.commands.costs import disk_bytes, epoch_images, find_speed, read_trainings, val_images
from workbench.commands.plan import describe
from workbench.data.coco import read_coco
from workbench.settings.catalog import Rehearsal, load_row, load_table
from workbench.settings.data import CocoData
from workbench.settings.experiment import WeightAveraging
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

FULL = load_row("table3", "t3_full_vfl")
RAW = load_row("table3", "t3_raw_vfl")
ATSS = load_row("table5", "t5_atss_vfl")


def leave(folder, row, rates, seed=0, finished=True, **facts):
    """The files of a training with these images a second in its log."""
    run = folder / "runs" / row.run
    write_json_atomically(run / "experiment.json", row.experiment.model_dump(mode="json"))
    log = run / f"seed{seed}" / ("" if finished else "checkpoints") / "train.csv"
    log.parent.mkdir(parents=True)
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("step", "epoch", "images_per_second"), *((i + 1, i, rate) for i, rate in enumerate(rates))])
    if finished:
        given = {"device": "a toaster", "seconds": 90.0, "micro_batch x ranks x accumulation": "8 x 1 x 1"}
        write_json_atomically(log.with_name("train.json"), given | facts)
        log.with_name("model.safetensors").touch()


def block(text, row):
    """The lines about a run."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{row.run}:"))
    return "\n".join(lines[start : start + 4])


def total(text, name):
    return next(line.split(name)[1].strip() for line in text.splitlines() if line.startswith(f"    {name}"))


def test_sums_at_mini(tmp_path):
    said = describe("table3", "mini", tmp_path, None, images_per_second=8)
    assert "20 epochs of 800 images (16,000 in all), batch 8, images 128x96" in block(said, FULL)
    assert "33 min at 8 images/s (given)" in block(said, FULL)  # 16,000 / 8 = 2,000 s
    assert "To do: 5 of 5 trainings" in said
    assert total(said, "GPU-hours") == "2.8"  # 10,000 s
    assert "provisional" not in said
    assert "assumed" not in said


def test_sums_at_coco(tmp_path):
    said = describe("table4", "coco", tmp_path, None, images_per_second=10)
    assert "21 trainings at scale coco for 22 rows" in said
    assert "24 epochs of 117,266 images (2.81 million in all), batch 16, images 1333x640-800" in said
    x = block(said, load_row("table4", "t4_vfnetx_800", "coco"))
    assert "t4_vfnetx_800, t4_vfnetx_1200" in x
    assert "41 epochs + 18 SWA cycles of 117,266 images (6.92 million in all)" in x
    assert "192 h at 10 images/s (given)" in x  # 59 × 117,266 / 36,000 = 192.2
    assert total(said, "GPU-hours") == "1,756"  # (20 × 24 + 59) × 117,266 / 36,000 = 1755.7
    assert "117,266 images an epoch are assumed" in said
    assert "The ids are provisional" in said


def test_where_nothing_is_known(tmp_path):
    said = describe("table3", "mini", tmp_path, None)
    assert "time unknown; peak memory unknown; " in block(said, FULL)
    assert total(said, "GPU-hours") == total(said, "peak memory") == "unknown"
    assert "give --images-per-second, or start a training, for instance with snakemake --cores all t3_raw_fl" in said
    assert "snakemake --cores all table3 --config scale=mini limit_steps=2 limit_images=4" in said
    said = describe("table3", "bccd", tmp_path, None, images_per_second=8)
    assert total(said, "GPU-hours") == "unknown"
    assert "How many images an epoch has is not known: give --data-root." in said


def test_what_is_done_costs_nothing(tmp_path):
    leave(tmp_path / "mini", FULL, [50], seconds=3600.0, **{"micro_batch x ranks x accumulation": "4 x 2 x 1"})
    leave(tmp_path / "mini", FULL, [50], seed=10)
    leave(tmp_path / "mini", FULL, [50], seed=2)
    leave(tmp_path / "mini", RAW, [1, 4, 100, 5, 2], finished=False)
    said = describe("table3", "mini", tmp_path, None)
    assert f"{FULL.run}: done: seed0, seed2, seed10" in said
    assert "took 2.0 h (seed0 on a toaster)" in block(said, FULL)  # an hour on two devices
    assert f"{RAW.run}: under way: seed0, epoch 5 of 20" in said
    assert "To do: 4 of 5 trainings" in said
    # 16,000 images each, at a median of 4 and three times at 50 / 2.
    assert float(total(said, "GPU-hours")) == pytest.approx((4000 + 3 * 640) / 3600, abs=0.05)
    whole = describe("table3", "mini", tmp_path / "none", None)
    alone = disk_bytes(FULL.experiment, 1, 250)
    assert int(total(whole, "disk").split()[0]) - int(total(said, "disk").split()[0]) == pytest.approx(
        alone / 1e6, abs=1
    )


def test_sources_of_images_per_second(tmp_path):
    folder, rehearsal = tmp_path / "mini", tmp_path / "mini-rehearsal"

    def source(row=FULL, given=None):
        found = find_speed(row.experiment, read_trainings(folder), read_trainings(rehearsal), given)
        return found and (found.images_per_second, found.source)

    assert source() is None
    leave(folder, ATSS, [7])
    leave(folder, RAW, [6], finished=False)  # another run's counts when it is finished
    assert source() == (7, f"another run's: {ATSS.run}, seed0 on a toaster")
    leave(folder, load_row("table3", "t3_raw_fl"), [9], **{"micro_batch x ranks x accumulation": "2 x 4 x 1"})
    assert source(RAW)[0] == 6
    assert source(load_row("table2", "t2_g1p0_a0p50_q"))[0] == 7
    assert source(load_row("table5", "t5_atss_fl"))[0] == 7  # the same detector rather than the first by name
    assert source(load_row("gfl_table3", "gfl3_qfl_dfl"))[0] in (7, 9 / 4)

    _, (*_, short, _) = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))
    leave(rehearsal, short, [5], peak_memory_mb=700)
    assert source()[0] == 7  # its steps are of one image
    said = describe("table3", "mini", tmp_path, None)
    assert "peak memory 700 MB (rehearsal of one image a step on a toaster)" in block(said, FULL)
    assert total(said, "peak memory") == "700 MB (rehearsal of one image a step on a toaster); unknown for 4"

    _, (*_, whole, _) = load_table("table3", "mini", rehearsal=Rehearsal(images=4))
    leave(rehearsal, whole, [4])
    assert source() == (4, "its rehearsal, seed0 on a toaster")
    leave(folder, FULL, [3], finished=False)
    assert source() == (3, "seed0 under way, taken as one device's")
    leave(folder, FULL, [2], seed=1, peak_memory_mb=900)
    leave(folder, FULL, [2], seed=2, peak_memory_mb=800)
    assert source() == (2, "seed1 on a toaster")
    assert source(given=1.5) == (1.5, "given")
    assert "peak memory 900 MB (seed1 on a toaster)" in describe("table3", "mini", tmp_path, None)


def test_rehearsals_of_single_images_are_left_out_aloud(tmp_path):
    _, (*_, short, _) = load_table("table3", "mini", rehearsal=Rehearsal(steps=2, images=4))
    leave(tmp_path / "mini-rehearsal", short, [5])
    assert "Images a second of rehearsals are left out" in describe("table3", "mini", tmp_path, None)
    assert "left out" not in describe("table3", "mini", tmp_path, None, images_per_second=8)


def test_images_of_a_data_set(tiny_data):
    data = CocoData(classes=6, digest="0" * 32)
    assert epoch_images(data, tiny_data) == len(read_coco(tiny_data, "train2017", training=True).images) < 24
    assert val_images(data, tiny_data) == 6
    assert epoch_images(CocoData(classes=80), None) == 117_266
    assert epoch_images(data, None) is None
    assert (epoch_images(FULL.experiment.data, None), val_images(FULL.experiment.data, None)) == (800, 250)


def test_sizes_are_those_on_the_disk(tiny_experiment, tiny_data, tmp_path):
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


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    for number in (0, -1, "nan", "inf"):
        monkeypatch.setattr("sys.argv", ["workbench", "plan", "table3", f"--images-per-second={number}"])
        with pytest.raises(SystemExit, match=f"workbench: --images-per-second {number}: give a number above 0"):
            cli.main()
    leave(tmp_path / "mini", FULL, ["fast"])
    with pytest.raises(WorkbenchError, match=r"train\.csv: not the log of a training"):
        describe("table3", "mini", tmp_path, None)
