"""Intervals: by hand, and whether they cover the truth as often as they say, where the truth is known."""

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
    difference_interval,
    interval,
    mean_interval,
    read_bootstrap,
    resamples,
    student,
    write_bootstrap,
)
from workbench.evaluation.resampling import ClassMatches, Matches, average_precision
from workbench.support.errors import WorkbenchError

THRESHOLDS = np.linspace(0.5, 0.95, 10)


class World:
    """A large set of images, from which small ones are drawn: what they hold, how hard each is, and each object."""

    def __init__(self, images=10_000, classes=6, objects=0.64, noise=3.0, seed=0):
        self.random = np.random.default_rng(seed)
        self.hard = self.random.normal(0, 0.6, images)
        crowded = self.random.gamma(1.5, 1 / 1.5, (images, 1))
        self.objects = self.random.poisson(objects * crowded * np.linspace(1.5, 0.5, classes))
        self.ease = [self.random.normal(0, 0.7, n) for n in self.objects.sum(axis=0)]
        self.noise = noise

    def detect(self, skill):
        """One training's detections: what it finds of each class by image, its IoU, and a score that goes with it."""
        return Detections([self._detect_class(name, skill) for name in range(len(self.ease))], self.objects)

    def _detect_class(self, name, skill):
        random = self.random
        image = np.repeat(np.arange(len(self.hard)), self.objects[:, name])
        ease = 0.4 + skill - self.hard[image] + self.ease[name] + random.normal(0, 0.7, len(image))
        iou = 1 / (1 + np.exp(-ease - 1))
        found = random.random(len(image)) < 1 / (1 + np.exp(-ease - 1.5))
        score = 0.7 * iou + random.normal(0, 0.15, len(image))
        wrong = np.repeat(np.arange(len(self.hard)), random.poisson(self.noise * np.exp(0.4 * self.hard)))
        wrong_score = 0.15 + 0.1 * self.hard[wrong] + random.normal(0, 0.15, len(wrong))
        return (
            np.concatenate([image[found], wrong]),
            np.concatenate([score[found], wrong_score]),
            np.concatenate([iou[found], np.zeros(len(wrong))]),
        )


class Detections:
    """A training's detections on all images of a world; ``on`` gives the matches on some, some of them repeated."""

    def __init__(self, classes, objects):
        self.objects, self.classes = objects, []
        for image, score, iou in classes:
            rank = np.empty(len(score), dtype=np.int64)
            rank[np.argsort(-score)] = np.arange(len(score))
            order = np.argsort(image, kind="stable")
            first = np.searchsorted(image[order], np.arange(len(objects) + 1))
            self.classes.append((first, rank[order], iou[order] >= THRESHOLDS[:, None]))
        everything = np.arange(len(objects))
        self.ap = average_precision(self.on(everything), np.ones((1, len(objects)), dtype=int))[0]

    def on(self, images):
        chosen = []
        for (first, rank, matched), objects in zip(self.classes, self.objects.T, strict=True):
            count = first[images + 1] - first[images]
            place = np.repeat(first[images] - np.cumsum(count) + count, count) + np.arange(count.sum())
            order = np.argsort(rank[place], kind="stable")
            found = matched[:, place[order]]
            of = np.repeat(np.arange(len(images)), count)[order]
            chosen.append(ClassMatches(of, found, np.zeros_like(found), objects[images]))
        return Matches(tuple(range(len(images))), tuple(one for one in chosen if one.objects.any()))


def drawn_once(detections, images, number, random):
    """The bootstrap of each training on the same images, drawn from their world."""
    drawn = random.integers(len(detections[0].objects), size=images)
    weights = np.concatenate([np.ones((1, images), dtype=int), resamples(images, number)])
    values = [average_precision(d.on(drawn), weights) for d in detections]
    return [Bootstrap(float(v[0]), v[1:], images, "drawn") for v in values]


def coverage(found, truth):
    low, high = np.array(found).T[1:]
    return np.mean((low <= truth) & (truth <= high))


def covered(world, images, simulations, number):
    """How often the intervals of an AP and of a difference hold the truth."""
    worse, better = world.detect(0.0), world.detect(0.25)
    random = np.random.default_rng(1)
    pairs = [drawn_once([worse, better], images, number, random) for _ in range(simulations)]
    alone = coverage([mean_interval([a]) for a, _ in pairs], worse.ap)
    paired = coverage([difference_interval([b], [a]) for a, b in pairs], better.ap - worse.ap)
    return alone, paired


def test_intervals_cover_on_a_small_set():
    alone, paired = covered(World(2000, classes=2, objects=1.0), images=60, simulations=60, number=100)
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
def test_intervals_cover_as_often_as_they_say(world, images, simulations):
    alone, paired = covered(World(**world), images, simulations, number=200)
    print(f"{world}, {images} images: AP {alone:.3f}, difference {paired:.3f}")
    assert 0.92 <= alone <= 0.97
    assert 0.92 <= paired <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("scatter", [0.0, 0.03, 0.1])
def test_intervals_over_seeds_cover(scatter):
    """Three trainings a row, drawn from 30 whose skill scatters: the truth is the mean over all, on all images."""
    world = World(8000, classes=3, objects=1.3)
    rows = [[world.detect(skill + world.random.normal(0, scatter)) for _ in range(30)] for skill in (0.0, 0.2)]
    truth = [np.mean([d.ap for d in row]) for row in rows]
    random = np.random.default_rng(2)
    alone, paired = [], []
    for _ in range(300):
        chosen = [row[i] for row in rows for i in random.integers(30, size=3)]
        found = drawn_once(chosen, 150, 200, random)
        alone.append(mean_interval(found[:3]))
        paired.append(difference_interval(found[3:], found[:3]))
    said = coverage(alone, truth[0]), coverage(paired, truth[1] - truth[0])
    print(f"scatter {scatter}: mean {said[0]:.3f}, difference of means {said[1]:.3f}")
    assert min(said) >= 0.92


@pytest.mark.slow
def test_a_set_of_coco_s_size_takes_seconds_and_little_memory():
    """5,000 images, 80 classes, 36,000 objects, 100 detections an image; of one core and beside pycocotools' own."""
    matches = World(5000, classes=80, objects=0.09, noise=1.15).detect(0.3).on(np.arange(5000))
    assert sum(len(one.image) for one in matches.classes) == pytest.approx(500_000, rel=0.1)
    assert sum(one.objects.sum() for one in matches.classes) == pytest.approx(36_000, rel=0.1)
    tracemalloc.start()
    began = time.process_time()
    found = bootstrap(matches)
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"AP {found.ap:.3f} ± {found.samples.std():.4f}: {seconds:.1f} s, {peak / 2**20:.0f} MiB")
    assert len(found.samples) == 1000
    assert seconds < 90
    assert peak < 2**29


def values(ap, seed=0, spread=0.01, number=200):
    """A made-up bootstrap around an AP."""
    samples = np.random.default_rng(seed).normal(0, spread, number)
    return Bootstrap(ap, ap + samples - samples.mean(), 100, "d")


def test_an_interval_by_hand():
    """Resamples 1 above the estimate on average: the bias is between 1 and 2.41 times that."""
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


def test_no_interval_of_nothing():
    assert all(map(math.isnan, interval(np.full(5, math.nan), 0.3)))
    assert all(map(math.isnan, interval(np.ones(5), math.nan)))
    empty = Bootstrap(math.nan, np.full(5, math.nan), 2, "d")
    assert all(map(math.isnan, difference_interval([empty], [empty])))


def test_an_ap_is_between_0_and_1():
    assert mean_interval([values(0.01, spread=0.2)])[1] == 0.0
    assert mean_interval([values(0.99, spread=0.2)])[2] == 1.0


@pytest.mark.parametrize(
    ("degrees", "said"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227), (10**5, 1.95996)]
)
def test_student(degrees, said):
    """The numbers of the printed tables."""
    assert student(degrees) == pytest.approx(said, abs=2e-4)


def test_what_images_share_drops_out_of_a_difference():
    row = values(0.4)
    better = replace(row, ap=row.ap + 0.02, samples=row.samples + 0.02)
    assert difference_interval([better], [row]) == pytest.approx((0.02, 0.02, 0.02))
    effect, low, high = difference_interval([row], [values(0.41, seed=1)])
    assert effect == pytest.approx(-0.01)
    assert high - low == pytest.approx(2 * 1.96 * 0.01 * math.sqrt(2), rel=0.1)


def test_seeds_widen_an_interval_by_what_the_images_do_not_explain():
    """Seeds that differ on every image alike: all of their variance is added, as Student's interval of a mean."""
    base = values(0.4)
    row = [replace(base, ap=base.ap + d, samples=base.samples + d) for d in (-0.02, 0.0, 0.02)]
    mean, low, high = mean_interval(row)
    _, one_low, one_high = mean_interval([base])
    assert mean == pytest.approx(0.4)
    half = math.hypot((one_high - one_low) / 2, 4.30265 * 0.02 / math.sqrt(3))
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half), abs=1e-5)

    other = [values(0.4, seed=9)]
    _, low, high = difference_interval(row, other)  # the spread of the row is taken for that of the single seed, too
    _, one_low, one_high = difference_interval([base], other)
    half = math.hypot((one_high - one_low) / 2, 4.30265 * 0.02 * math.sqrt(1 / 3 + 1))
    assert (low, high) == pytest.approx((-half, half), abs=1e-5)


def test_seeds_that_differ_no_more_than_their_images_explain_add_nothing():
    row = [values(0.4, seed) for seed in range(3)]
    mean, low, high = mean_interval(row)
    assert mean == pytest.approx(0.4)
    assert high - low == pytest.approx(2 * 1.96 * 0.01 / math.sqrt(3), rel=0.1)


def test_what_the_images_explain_of_the_seeds_is_not_counted_twice():
    row = [replace(values(0.4, seed), ap=0.4 + d) for seed, d in enumerate((-0.02, 0.0, 0.02))]
    _, low, high = mean_interval(row)
    drawn = np.array([one.samples for one in row])
    explained = np.mean([np.var(drawn[i] - drawn[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))])
    seeds = 4.30265 * math.sqrt((0.02**2 - explained) / 3)
    assert 0.5e-4 < explained < 2e-4
    assert high - 0.4 == pytest.approx(math.hypot(1.959964 * drawn.mean(axis=0).std(ddof=1), seeds), abs=1e-5)
    assert high + low == pytest.approx(0.8)


def test_what_trainings_share_drops_out_of_two_evaluations_of_each():
    """Trainings far apart, the same gain in each but for ± 0.001: Student's interval of the gains, of two degrees."""
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


def test_only_the_same_images_are_compared():
    with pytest.raises(WorkbenchError, match=r"different images \(100 and 7\)"):
        difference_interval([values(0.4)], [replace(values(0.4), images=7, digest="e")])


def test_resamples_are_the_same_for_all_rows():
    drawn = resamples(40, 30)
    assert drawn.shape == (30, 40)
    assert (drawn.sum(axis=1) == 40).all()
    assert np.array_equal(drawn, resamples(40, 30))
    assert len(np.unique(drawn, axis=0)) == 30
    assert 0.25 < (drawn == 0).mean() < 0.5  # 1/e of the images are left out


def test_a_bootstrap_is_kept(tmp_path):
    world = World(300, classes=2)
    matches = world.detect(0.3).on(np.arange(50))
    found = bootstrap(matches)
    drawn = resamples(50)
    assert found.ap == average_precision(matches, np.ones((1, 50), dtype=int))[0]
    assert np.array_equal(found.samples, average_precision(matches, drawn))
    write_bootstrap(tmp_path / "bootstrap.json", found)
    kept = read_bootstrap(tmp_path / "bootstrap.json")
    assert (kept.ap, kept.images, kept.digest) == (found.ap, 50, found.digest)
    np.testing.assert_allclose(kept.samples, found.samples, rtol=0, atol=5.1e-7)
    other = bootstrap(replace(matches, image_ids=tuple(range(1, 51))))
    assert other.digest != found.digest


def test_a_set_without_objects_is_kept_too(tmp_path):
    found = bootstrap(Matches((1, 2, 3), ()))
    write_bootstrap(tmp_path / "b.json", found)
    assert json.loads((tmp_path / "b.json").read_text())["AP"] is None
    assert math.isnan(read_bootstrap(tmp_path / "b.json").ap)


@pytest.mark.parametrize("text", ["[]", "{}", '{"AP": "much", "resamples": [1], "images": 1, "digest": ""}'])
def test_what_is_no_bootstrap_is_told(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(WorkbenchError, match=r"b\.json: no AP of resampled images; remove it") as error:
        read_bootstrap(tmp_path / "b.json")
    assert "\n" not in str(error.value)
