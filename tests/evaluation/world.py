"""Simulated images, objects and detections, for tests of resamples and of intervals."""

import numpy as np

from workbench.evaluation.resampling import ClassMatches, Matches, average_precision

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
