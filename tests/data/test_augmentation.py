"""Sizes, crops and holes agree with their definitions, pixel by pixel, and are reproducible."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.data import augmentation, loader, transforms
from workbench.data.augmentation import Augmentation, augment
from workbench.data.batch import MEAN, STD
from workbench.data.coco import ImageRecord, read_coco
from workbench.settings.catalog import load_row
from workbench.settings.data import ImageRange
from workbench.settings.experiment import CutOut, Training
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import validated

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
HOLES = [(4, 4), (4, 8), (8, 4), (8, 8), (16, 8), (8, 16), (16, 16), (16, 32), (32, 16), (32, 32), (32, 48), (48, 32), (48, 48)]  # fmt: skip
RANGE = ImageRange(long=(60, 70), short=(40, 80))
ALL = Augmentation(crop=0.5, image_range=RANGE, cutout=CutOut(unit=1))


def generator(seed=0):
    return np.random.default_rng(seed)


def uniform(values, expected):
    """Whether exactly the expected values occur, equally often within six standard deviations."""
    counts, share = Counter(values), len(values) / len(expected)
    return set(counts) == set(expected) and max(abs(counts[v] - share) for v in expected) < 6 * share**0.5


def coordinates(height, width):
    """Image ``[3, height, width]`` whose pixels contain their coordinates: x, y, 255."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 255)]).to(torch.uint8)


def record(width, height, boxes):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(1, "x.jpg", "x.jpg", width, height, boxes, np.arange(len(boxes)))


def test_sides_are_drawn_independently_from_closed_ranges():
    rng = generator()
    pairs = [augmentation.draw_size(rng, ImageRange(long=(40, 44), short=(32, 34))) for _ in range(15000)]
    assert uniform(pairs, [(a, b) for a in range(40, 45) for b in range(32, 35)])


def test_the_range_of_table_4_draws_only_the_short_side():
    rng, bounds = generator(), ImageRange(long=(1333, 1333), short=(480, 960))
    longs, shorts = zip(*(augmentation.draw_size(rng, bounds) for _ in range(96200)), strict=True)
    assert set(longs) == {1333}
    assert uniform(shorts, range(480, 961))


def test_the_larger_drawn_side_is_the_long_side():
    bounds = ImageRange(long=(750, 750), short=(1400, 1400))
    assert augmentation.draw_size(generator(), bounds) == (1400, 750)
    image = augment(coordinates(100, 200), record(200, 100, []), (1, 1), Augmentation(image_range=bounds), generator())
    assert image.image.shape == (3, 700, 1400)


def test_crops_are_uniform_from_three_quarters_to_the_whole_image():
    rng = generator()
    windows = np.array([augmentation.draw_crop(rng, 40, 21) for _ in range(20000)])
    top, left, height, width = windows.T
    for side, part, start in ((40, height, top), (21, width, left)):
        # A side of n pixels is drawn if the real number rounds to n: about half as often for the smallest and the largest.
        edges = [max(Fraction(3, 4) * side, n - Fraction(1, 2)) for n in range(side + 1)] + [Fraction(side)]
        chance = [float(max(0, b - a) / (Fraction(1, 4) * side)) for a, b in pairwise(edges)]
        assert sum(chance) == pytest.approx(1)
        share = np.bincount(part, minlength=side + 1) / len(part)
        np.testing.assert_allclose(share, chance, atol=0.015)
        for n in set(part.tolist()):
            assert uniform(start[part == n].tolist(), range(side - n + 1))
    assert abs(np.corrcoef(height, width)[0, 1]) < 0.03
    assert abs(np.corrcoef(top[height == 35], left[height == 35])[0, 1]) < 0.1


def slow_boxes(boxes, left, top, width, height):
    kept = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        box = [min(max(x1 - left, 0), width), min(max(y1 - top, 0), height), min(max(x2 - left, 0), width), min(max(y2 - top, 0), height)]  # fmt: skip
        if box[2] > box[0] and box[3] > box[1]:
            kept.append((i, box))
    return kept


def test_a_crop_has_the_pixels_and_boxes_of_its_window(monkeypatch):
    """Without resizing, the first pixel contains the position of the crop."""
    monkeypatch.setattr(transforms, "resized_size", lambda height, width, *_: (height, width))
    rng, image = generator(), coordinates(90, 120)
    corner = rng.uniform(-10, 110, (30, 2))
    boxes = np.float32(np.concatenate([corner, corner + rng.uniform(1, 30, (30, 2))], axis=1))
    dropped, whole = 0, 0
    for _ in range(200):
        sample = augment(image, record(120, 90, boxes), (1, 1), Augmentation(crop=0.5), rng)
        _, height, width = sample.image.shape
        left, top = sample.image[:2, 0, 0].tolist()
        assert torch.equal(sample.image, image[:, top : top + height, left : left + width])
        expected = slow_boxes(boxes.tolist(), left, top, width, height)
        assert sample.labels.tolist() == [i for i, _ in expected]
        np.testing.assert_allclose(sample.boxes, [box for _, box in expected], atol=1e-4)
        assert (sample.record.height, sample.record.width) == (90, 120)
        dropped += len(expected) < len(slow_boxes(boxes.tolist(), 0, 0, 120, 90))
        whole += (height, width) == (90, 120)
    assert dropped > 50
    assert 70 < whole < 130


def test_a_crop_comes_before_the_resize():
    """The crop's sides fit into the size, and the boxes have the crop's scale factor."""
    image, entry = coordinates(90, 120), record(120, 90, [(0, 0, 120, 90)])
    shapes = set()
    for seed in range(30):
        sample = augment(image, entry, (60, 60), Augmentation(crop=1.0), generator(seed))
        assert max(sample.image.shape) == 60
        height, width = sample.image.shape[1:]
        np.testing.assert_allclose(sample.boxes, [[0, 0, width, height]], atol=1e-4)
        shapes.add((height, width))
    assert len(shapes) > 5


@pytest.mark.parametrize("boxes", [[], [(0, 0, 1, 1)]])
def test_a_crop_without_objects_is_rejected(boxes):
    samples = [
        augment(coordinates(90, 120), record(120, 90, boxes), (120, 90), Augmentation(crop=1.0), generator(seed))
        for seed in range(100)
    ]
    kept = sum(sample is not None for sample in samples)
    assert 0 < kept < 20 if boxes else kept == 0
    assert all(len(sample.labels) == 1 for sample in samples if sample)


def test_holes_are_uniform_in_number_size_and_position():
    drawn = [augmentation.draw_holes(rng, 1000, 2000, 4) for rng in [generator()] for _ in range(4000)]
    assert uniform([len(holes) for holes in drawn], range(5, 11))
    x1, y1, x2, y2 = np.concatenate(drawn).T
    unclipped = (x2 < 2000) & (y2 < 1000)
    sizes = list(zip((x2 - x1)[unclipped].tolist(), (y2 - y1)[unclipped].tolist(), strict=True))
    assert uniform(sizes, HOLES)
    assert (x2 <= 2000).all()
    assert (y2 <= 1000).all()
    small = np.concatenate([augmentation.draw_holes(rng, 3, 5, 1) for rng in [generator()] for _ in range(4000)])
    assert uniform([tuple(corner) for corner in small[:, :2].tolist()], [(x, y) for x in range(5) for y in range(3)])
    assert (small[:, 2:] <= (5, 3)).all()
    units = np.concatenate([augmentation.draw_holes(rng, 999, 999, 1) for rng in [generator()] for _ in range(500)])
    assert {(4 * w, 4 * h) for w, h in (units[:, 2:] - units[:, :2]).tolist() if max(w, h) <= 12} >= set(HOLES)


def test_holes_are_black_and_other_pixels_unchanged():
    image = coordinates(50, 60).clamp(min=1)
    before, rectangles = image.clone(), np.array([(3, 4, 7, 12), (56, 40, 60, 50), (5, 5, 9, 7)])
    cut = augmentation.cut_out(image, rectangles)
    assert torch.equal(image, before)
    for y in range(50):
        for x in range(60):
            inside = any(x1 <= x < x2 and y1 <= y < y2 for x1, y1, x2, y2 in rectangles)
            assert cut[:, y, x].tolist() == ([0, 0, 0] if inside else before[:, y, x].tolist())


def test_holes_come_after_the_resize_and_before_normalisation():
    """In the resized image, half of the images have holes with sharp sides; boxes stay the same."""
    image, entry = torch.full((3, 30, 40), 200, dtype=torch.uint8), record(40, 30, [(0, 0, 40, 30)])
    rng, plain, cut = generator(), 0, 0
    for _ in range(200):
        settings = Augmentation(image_range=ImageRange(long=(400, 400), short=(300, 300)), cutout=CutOut())
        sample = augment(image, entry, (1, 1), settings, rng)
        assert set(sample.image.unique().tolist()) <= {0, 200}  # a resized hole would have grey sides
        assert (sample.image.amax(0) == sample.image.amin(0)).all()
        assert sample.boxes.tolist() == [[0, 0, 400, 300]]
        black = int((sample.image[0] == 0).sum())
        plain, cut = plain + (black == 0), max(cut, black)
        assert black <= 10 * 48 * 48
        if black:
            pixels = transforms.collate([sample]).to("cpu").images[0, :, :300, :400]
            darkest = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])
            torch.testing.assert_close(pixels.flatten(1).amin(1), darkest)
    assert 70 < plain < 130
    assert cut > 4000


@pytest.fixture
def data(write):
    """Twelve images with two objects each, eight of them wide; the objects of even ids are tiny and in a corner."""
    images, annotations = [], []
    for i in range(12):
        width, height = (60, 40) if i < 8 else (40, 60)
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        for k in range(2):
            box = [k, k, 1.5, 1.5] if i % 2 == 0 else [5, 5, 30 - k, 30]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": 0, "bbox": box})
    root = write({"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "a"}]})
    for image in images:
        pixels = generator(image["id"]).integers(1, 256, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(root / "train2017" / image["file_name"])
    return read_coco(root, "train2017", training=True)


def batches(data, settings=ALL, **options):
    return loader.training_batches(
        data, **{"size": (64, 48), "canvas": 2, "seed": 3, "augmentation": settings} | options
    )


def same(one, other):
    def equal(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    assert len(one) == len(other)
    return all(equal(vars(a)[k], vars(b)[k]) for a, b in zip(one, other, strict=True) for k in vars(a))


def test_workers_cache_and_resumption_do_not_change_the_batches(data, monkeypatch):
    alone, shared = batches(data), batches(data, workers=3)
    for epoch in (0, 1, 0):
        whole = list(alone.epoch(epoch))
        assert same(whole, list(shared.epoch(epoch)))
        assert same(whole[4:], list(batches(data, workers=1).epoch(epoch, skip=4)))
        assert same(whole[2:], list(batches(data).epoch(epoch, skip=2)))
    assert not same(list(alone.epoch(0)), list(alone.epoch(1)))
    assert not same(whole, list(batches(data, seed=4).epoch(0)))
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    assert same(whole, list(batches(data).epoch(0)))


def test_ranks_share_the_batches_of_one_process(data):
    whole = list(batches(data).epoch(0))
    for rank in range(2):
        assert same(whole[rank::2], list(batches(data, rank=rank, world_size=2).epoch(0)))


def test_the_flip_is_the_first_number_of_an_image(data):
    """Other augmentations do not change the flip, which depends on seed, epoch and image id."""
    for settings in (Augmentation(), Augmentation(cutout=CutOut(unit=1))):
        plain = {
            i: b.images[k] for b in batches(data, Augmentation(flip=0)).epoch(0) for k, i in enumerate(b.image_ids)
        }
        for batch in batches(data, settings).epoch(0):
            for i, image, (height, width) in zip(batch.image_ids, batch.images, batch.sizes.tolist(), strict=True):
                image, whole = image[:, :height, :width], plain[i][:, :height, :width]
                flipped = np.random.default_rng((3, 0, i)).random() < 0.5
                kept = (image == (whole.flip(2) if flipped else whole)).float().mean()
                assert kept == 1 if settings.cutout is None else 0.2 < kept <= 1


def test_another_image_of_the_group_replaces_a_crop_without_objects(data):
    settings = Augmentation(flip=0, crop=1.0)
    counts = Counter()
    for epoch in range(20):
        planned = list(batches(data, Augmentation(flip=0)).epoch(epoch))
        for batch, plan in zip(batches(data, settings).epoch(epoch), planned, strict=True):
            assert batch.valid.any(dim=1).all()
            assert torch.equal(batch.original_sizes, plan.original_sizes)  # of the same group
            for image, expected in zip(batch.image_ids, plan.image_ids, strict=True):
                counts[expected % 2, image == expected] += 1
    assert counts[1, True] == 120  # every crop contains a part of a large object
    assert counts[1, False] == 0
    assert counts[0, False] > 50  # of 120


def test_a_group_without_objects_is_reported(data):
    for image in data.images[:8]:
        object.__setattr__(image, "boxes", image.boxes[:0])
        object.__setattr__(image, "labels", image.labels[:0])
    with pytest.raises(
        WorkbenchError, match=r"\.png: no crop of this image or of similar images contains an object; leave"
    ) as error:
        list(batches(data, Augmentation(crop=1.0)).epoch(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_range": {"long": [9, 99], "short": [40, 50]}}, "x.yaml: image_range.long.0: input should be greater"),
        (
            {"image_range": {"long": [99, 99], "short": [60, 50]}},
            "x.yaml: image_range.short: the smaller end comes first",
        ),
        ({"image_range": {"long": [99], "short": [40, 50]}}, "x.yaml: image_range.long.1: missing; add it"),
        ({"image_range": {"short": [40, 50]}}, "x.yaml: image_range.long: missing; add it"),
        ({"image_range": {"long": [99, 99], "shrt": [40, 50]}}, "x.yaml: image_range.shrt: unknown key; did you mean"),
        ({"cutout": {"unit": 0}}, "x.yaml: cutout.unit: input should be greater than or equal to 1"),
        ({"crop": 1.5}, "x.yaml: crop: input should be less than or equal to 1"),
        ({"swa": {"low": 0.1}}, r"x.yaml: swa: low \(0.1\) is larger than high \(0.01\)"),
        ({"swa": {"cycles": 0}}, "x.yaml: swa.cycles: input should be greater than or equal to 1"),
    ],
)
def test_mistakes_are_reported_in_one_line(settings, message):
    with pytest.raises(WorkbenchError, match=message) as error:
        validated(Training, {"epochs": 1} | settings, "x.yaml")
    assert "\n" not in str(error.value)


def test_each_augmentation_changes_the_run_id():
    row = load_row("table3", "t3_full_vfl")
    changes = [{"image_range": RANGE}, {"crop": 0.5}, {"cutout": CutOut()}, {"cutout": CutOut(unit=1)}]
    runs = {row.run}
    for change in changes:
        training = row.experiment.training.model_copy(update=change)
        runs.add(run_id(row.experiment.model_copy(update={"training": training})))
    assert len(runs) == 5
