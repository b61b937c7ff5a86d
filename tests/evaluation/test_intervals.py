"""Intervals agree with worked examples, and contain the true value of simulated worlds at the stated rate."""

import json
import math
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from workbench.evaluation.intervals import (
    KINK,
    Bootstrap,
    bootstrap,
    bootstrap_of,
    difference_interval,
    interval,
    mean_interval,
    resamples,
    student,
    write_bootstrap,
)
from workbench.evaluation.resampling import ClassMatches, Matches, average_precision
from workbench.support.errors import WorkbenchError

THRESHOLDS = np.linspace(0.5, 0.95, 10)


class World:
    """Simulated population of images, from which data sets are drawn: difficulty and objects of each image."""

    def __init__(self, images=10_000, classes=6, objects=0.64, noise=3.0, seed=0):
        self.random = np.random.default_rng(seed)
        self.difficulty = self.random.normal(0, 0.6, images)
        crowded = self.random.gamma(1.5, 1 / 1.5, (images, 1))
        self.objects = self.random.poisson(objects * crowded * np.linspace(1.5, 0.5, classes))
        self.ease = [self.random.normal(0, 0.7, n) for n in self.objects.sum(axis=0)]
        self.noise = noise

    def detect(self, skill):
        """Simulate the detections of one training: image, score and IoU of each; the score is correlated with the IoU."""
        return Detections([self._detect_class(name, skill) for name in range(len(self.ease))], self.objects)

    def _detect_class(self, name, skill):
        random = self.random
        image = np.repeat(np.arange(len(self.difficulty)), self.objects[:, name])
        ease = 0.4 + skill - self.difficulty[image] + self.ease[name] + random.normal(0, 0.7, len(image))
        iou = 1 / (1 + np.exp(-ease - 1))
        detected = random.random(len(image)) < 1 / (1 + np.exp(-ease - 1.5))
        score = 0.7 * iou + random.normal(0, 0.15, len(image))
        wrong = np.repeat(np.arange(len(self.difficulty)), random.poisson(self.noise * np.exp(0.4 * self.difficulty)))
        wrong_score = 0.15 + 0.1 * self.difficulty[wrong] + random.normal(0, 0.15, len(wrong))
        return (
            np.concatenate([image[detected], wrong]),
            np.concatenate([score[detected], wrong_score]),
            np.concatenate([iou[detected], np.zeros(len(wrong))]),
        )


class Detections:
    """Detections of one training on all images of a world."""

    def __init__(self, classes, objects):
        self.objects, self.classes = objects, []
        for image, score, iou in classes:
            rank = np.empty(len(score), dtype=np.int64)
            rank[np.argsort(-score)] = np.arange(len(score))
            order = np.argsort(image, kind="stable")
            first = np.searchsorted(image[order], np.arange(len(objects) + 1))
            self.classes.append((first, rank[order], iou[order] >= THRESHOLDS[:, None]))
        self.ap = average_precision(self.on(np.arange(len(objects))), np.ones((1, len(objects)), dtype=int))[0]

    def on(self, images):
        """Matches on some of the images; an image may be repeated."""
        chosen = []
        for (first, rank, matched), objects in zip(self.classes, self.objects.T, strict=True):
            count = first[images + 1] - first[images]
            place = np.repeat(first[images] - np.cumsum(count) + count, count) + np.arange(count.sum())
            order = np.argsort(rank[place], kind="stable")
            hits = matched[:, place[order]]
            image = np.repeat(np.arange(len(images)), count)[order]
            chosen.append(ClassMatches(image, hits, np.zeros_like(hits), objects[images]))
        return Matches(tuple(range(len(images))), tuple(one for one in chosen if one.objects.any()))


def draw_bootstraps(detections, images, number, random):
    """Draw images from the world and return the bootstrap of each training on these images."""
    drawn = random.integers(len(detections[0].objects), size=images)
    weights = np.concatenate([np.ones((1, images), dtype=int), resamples(images, number)])
    values = [average_precision(d.on(drawn), weights) for d in detections]
    return [Bootstrap(float(v[0]), v[1:], images, "drawn") for v in values]


def coverage(intervals, truth):
    """Share of intervals that contain the true value."""
    low, high = np.array(intervals).T[1:]
    return np.mean((low <= truth) & (truth <= high))


def simulate_coverage(world, images, simulations, number):
    """Coverage of the intervals of an AP and of a difference."""
    worse, better = world.detect(0.0), world.detect(0.25)
    random = np.random.default_rng(1)
    pairs = [draw_bootstraps([worse, better], images, number, random) for _ in range(simulations)]
    alone = coverage([mean_interval([a]) for a, _ in pairs], worse.ap)
    paired = coverage([difference_interval([b], [a]) for a, b in pairs], better.ap - worse.ap)
    return alone, paired


def test_intervals_contain_the_true_value_on_a_small_set():
    alone, paired = simulate_coverage(World(2000, classes=2, objects=1.0), images=60, simulations=60, number=100)
    assert 0.88 <= alone <= 1.0
    assert 0.88 <= paired <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "images", "simulations"),
    [
        ({"classes": 6, "objects": 0.64}, 250, 500),  # as at scale mini
        ({"classes": 6, "objects": 0.64}, 100, 500),
        ({"classes": 3, "objects": 1.3}, 150, 500),
        ({"classes": 80, "objects": 0.09, "noise": 0.3}, 500, 200),
    ],
)
def test_intervals_contain_the_true_value_at_the_stated_rate(world, images, simulations):
    alone, paired = simulate_coverage(World(**world), images, simulations, number=200)
    print(f"{world}, {images} images: AP {alone:.3f}, difference {paired:.3f}")
    assert 0.92 <= alone <= 0.97
    assert 0.92 <= paired <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("scatter", [0.0, 0.03, 0.1])
def test_intervals_over_seeds_contain_the_true_value_at_the_stated_rate(scatter):
    """Three trainings per row, drawn from 30 of different skill; the true value is the mean over all, on all images."""
    world = World(8000, classes=3, objects=1.3)
    rows = [[world.detect(skill + world.random.normal(0, scatter)) for _ in range(30)] for skill in (0.0, 0.2)]
    truth = [np.mean([d.ap for d in row]) for row in rows]
    random = np.random.default_rng(2)
    alone, paired = [], []
    for _ in range(300):
        chosen = [row[i] for row in rows for i in random.integers(30, size=3)]
        bootstraps = draw_bootstraps(chosen, 150, 200, random)
        alone.append(mean_interval(bootstraps[:3]))
        paired.append(difference_interval(bootstraps[3:], bootstraps[:3]))
    shares = coverage(alone, truth[0]), coverage(paired, truth[1] - truth[0])
    print(f"scatter {scatter}: mean {shares[0]:.3f}, difference of means {shares[1]:.3f}")
    assert min(shares) >= 0.92


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


def values(ap, seed=0, spread=0.01, number=200):
    """Bootstrap with random resamples around an AP."""
    samples = np.random.default_rng(seed).normal(0, spread, number)
    return Bootstrap(ap, ap + samples - samples.mean(), 100, "d")


def test_an_interval_of_a_worked_example():
    """The mean of the resamples is 1 above the estimate, so the bias is between 1 and 2.41."""
    samples = np.array([9.0, 11.0, 13.0])
    low, high = interval(samples, 10.0)
    assert low == pytest.approx(10 - 2.414214 - 1.959964 * 2, abs=1e-5)
    assert high == pytest.approx(10 - 1 + 1.959964 * 2, abs=1e-5)
    below = interval(-samples, -10.0)
    assert below == pytest.approx((-high, -low))
    assert interval(np.array([9.0, math.nan, 11.0, 13.0]), 10.0) == (low, high)
    wider = interval(samples, 10.0, half_width=3.0)
    assert wider[1] == pytest.approx(10 - 1 + math.hypot(1.959964 * 2, 3.0), abs=1e-5)
    assert pytest.approx(2.414214, abs=1e-6) == KINK


def test_intervals_are_nan_without_objects():
    assert all(map(math.isnan, interval(np.full(5, math.nan), 0.3)))
    assert all(map(math.isnan, interval(np.ones(5), math.nan)))
    empty = Bootstrap(math.nan, np.full(5, math.nan), 2, "d")
    assert all(map(math.isnan, difference_interval([empty], [empty])))


def test_the_interval_of_an_ap_is_clipped_to_0_and_1():
    assert mean_interval([values(0.01, spread=0.2)])[1] == 0.0
    assert mean_interval([values(0.99, spread=0.2)])[2] == 1.0


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227), (10**5, 1.95996)]
)
def test_quantiles_of_student_agree_with_printed_tables(degrees, quantile):
    assert student(degrees) == pytest.approx(quantile, abs=2e-4)


def test_variation_that_two_rows_share_cancels_in_their_difference():
    row = values(0.4)
    better = replace(row, ap=row.ap + 0.02, samples=row.samples + 0.02)
    assert difference_interval([better], [row]) == pytest.approx((0.02, 0.02, 0.02))
    effect, low, high = difference_interval([row], [values(0.41, seed=1)])
    assert effect == pytest.approx(-0.01)
    assert high - low == pytest.approx(2 * 1.96 * 0.01 * math.sqrt(2), rel=0.1)


def test_variance_over_seeds_widens_an_interval():
    """Seeds differ by a constant on every image, so all of their variance is added, as Student's interval of a mean."""
    base = values(0.4)
    row = [replace(base, ap=base.ap + d, samples=base.samples + d) for d in (-0.02, 0.0, 0.02)]
    mean, low, high = mean_interval(row)
    _, one_low, one_high = mean_interval([base])
    assert mean == pytest.approx(0.4)
    half = math.hypot((one_high - one_low) / 2, 4.30265 * 0.02 / math.sqrt(3))
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half), abs=1e-5)

    other = [values(0.4, seed=9)]
    _, low, high = difference_interval(row, other)  # the variance of the row is used for the single seed, too
    _, one_low, one_high = difference_interval([base], other)
    half = math.hypot((one_high - one_low) / 2, 4.30265 * 0.02 * math.sqrt(1 / 3 + 1))
    assert (low, high) == pytest.approx((-half, half), abs=1e-5)


def test_variance_over_seeds_that_the_images_explain_adds_nothing():
    row = [values(0.4, seed) for seed in range(3)]
    mean, low, high = mean_interval(row)
    assert mean == pytest.approx(0.4)
    assert high - low == pytest.approx(2 * 1.96 * 0.01 / math.sqrt(3), rel=0.1)


def test_variance_over_seeds_that_the_images_explain_is_subtracted():
    row = [replace(values(0.4, seed), ap=0.4 + d) for seed, d in enumerate((-0.02, 0.0, 0.02))]
    _, low, high = mean_interval(row)
    drawn = np.array([one.samples for one in row])
    explained = np.mean([np.var(drawn[i] - drawn[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))])
    seeds = 4.30265 * math.sqrt((0.02**2 - explained) / 3)
    assert 0.5e-4 < explained < 2e-4
    assert high - 0.4 == pytest.approx(math.hypot(1.959964 * drawn.mean(axis=0).std(ddof=1), seeds), abs=1e-5)
    assert high + low == pytest.approx(0.8)


def test_variance_between_trainings_cancels_in_two_evaluations_of_each():
    """The gain is 0.02 ± 0.001 in three very different trainings: Student's interval of the gains, two degrees."""
    base = [values(ap, seed=1) for ap in (0.3, 0.4, 0.5)]
    gains = (0.019, 0.02, 0.021)
    row = [replace(b, ap=b.ap + gain, samples=b.samples + gain) for b, gain in zip(base, gains, strict=True)]
    effect, low, high = difference_interval(row, base, same_trainings=True)
    assert effect == pytest.approx(0.02)
    assert high - effect == pytest.approx(4.30265 * 0.001 / math.sqrt(3), rel=1e-4)
    assert effect - low == pytest.approx(high - effect)
    _, low, high = difference_interval(row, base)
    assert low < -0.1
    assert high > 0.1


def test_evaluations_of_different_images_are_not_compared():
    with pytest.raises(WorkbenchError, match=r"different images \(100 and 7 images\)"):
        difference_interval([values(0.4)], [replace(values(0.4), images=7, digest="e")])


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
