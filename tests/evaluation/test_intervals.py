"""Bootstraps are the same for all rows, and are written and read without loss."""

import json
import math
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.world import World
from workbench.evaluation.intervals import bootstrap, bootstrap_of, resamples, write_bootstrap
from workbench.evaluation.resampling import Matches, average_precision
from workbench.support.errors import WorkbenchError


@pytest.mark.slow
def test_a_bootstrap_of_the_size_of_coco_takes_seconds_and_little_memory():
    """5,000 images, 80 classes, 36,000 objects, 100 detections per image; time of one core, without pycocotools' part."""
    matches = World(5000, classes=80, objects=0.09, noise=1.15).detect(0.3).on(np.arange(5000))
    assert sum(len(one.image) for one in matches.classes) == pytest.approx(500_000, rel=0.1)
    assert sum(one.objects.sum() for one in matches.classes) == pytest.approx(36_000, rel=0.1)
    tracemalloc.start()
    start = time.process_time()
    result = bootstrap(matches)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"AP {result.ap:.3f} ± {result.samples.std():.4f}: {seconds:.1f} s, {peak / 2**20:.0f} MiB")
    assert len(result.samples) == 1000
    assert seconds < 90
    assert peak < 2**29


def test_resamples_are_the_same_for_all_rows():
    drawn = resamples(40, 30)
    assert drawn.shape == (30, 40)
    assert (drawn.sum(axis=1) == 40).all()
    assert np.array_equal(drawn, resamples(40, 30))
    assert len(np.unique(drawn, axis=0)) == 30
    assert 0.25 < (drawn == 0).mean() < 0.5  # a resample leaves out 1/e of the images


def read(path):
    return bootstrap_of(json.loads(path.read_text()), path)


def test_a_bootstrap_is_written_and_read(tmp_path):
    world = World(300, classes=2)
    matches = world.detect(0.3).on(np.arange(50))
    result = bootstrap(matches)
    drawn = resamples(50)
    assert result.ap == average_precision(matches, np.ones((1, 50), dtype=int))[0]
    assert np.array_equal(result.samples, average_precision(matches, drawn))
    write_bootstrap(tmp_path / "bootstrap.json", result)
    loaded = read(tmp_path / "bootstrap.json")
    assert (loaded.ap, loaded.images, loaded.digest) == (result.ap, 50, result.digest)
    np.testing.assert_allclose(loaded.samples, result.samples, rtol=0, atol=5.1e-7)
    for other in (bootstrap(replace(matches, image_ids=tuple(range(1, 51)))), bootstrap(matches, "another split")):
        assert other.digest != result.digest


def test_a_bootstrap_without_objects_is_written_and_read(tmp_path):
    write_bootstrap(tmp_path / "b.json", bootstrap(Matches((1, 2, 3), ())))
    assert json.loads((tmp_path / "b.json").read_text())["AP"] is None
    assert math.isnan(read(tmp_path / "b.json").ap)


BROKEN = ['"much"', "41.0", "NaN", "Infinity", "true", "-0.1", "[0.4]"]


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{}", "3", '{"AP": 0.4, "resamples": 7, "images": 1, "digest": ""}'),
        *(f'{{"AP": {value}, "resamples": [0.5], "images": 1, "digest": ""}}' for value in BROKEN),
        *(f'{{"AP": 0.5, "resamples": [0.5, {value}], "images": 1, "digest": ""}}' for value in BROKEN),
    ],
)
def test_a_file_that_is_not_a_bootstrap_is_refused(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(WorkbenchError, match=r"b\.json: not an AP on resampled images; delete the file") as error:
        read(tmp_path / "b.json")
    assert "\n" not in str(error.value)
