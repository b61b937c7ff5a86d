"""Time and memory of `workbench evaluate` at COCO's size, beside an evaluation by pycocotools.

    python -m tests.evaluation.speed results/reference/evaluation.csv

The data set is made up: 5,000 images, 36,000 objects of 80 classes, 100 detections per image. Each repetition is a
process of its own, and both evaluations alternate. CPU seconds are medians over the repetitions; one thread.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

IMAGES, OBJECTS, CLASSES, DETECTIONS = 5000, 36_000, 80, 100
REPETITIONS = 5
STAGES = ("read", "match and count", "resamples", "all")


def write_data_set(folder, images=IMAGES, objects=OBJECTS, seed=0):
    """Write annotations.json and detections.json; a third of the objects are of the first of 80 classes."""
    random = np.random.default_rng(seed)
    share = np.r_[0.3, np.full(CLASSES - 1, 0.7 / (CLASSES - 1)) * np.linspace(1.6, 0.4, CLASSES - 1)]
    counts = random.multinomial(objects, random.dirichlet(np.full(images, 1.2)))
    truth, results = [], []
    for image, count in enumerate(counts.tolist(), 1):
        classes = random.choice(CLASSES, 3, p=share / share.sum())
        sides = np.exp(random.normal(4, 0.9, (count, 2))).clip(4, 400)
        boxes = np.concatenate([random.uniform(0, (640, 480), (count, 2)) * 0.7, sides], axis=1)
        labels = random.choice(classes, count)
        for box, label in zip(boxes.round(2).tolist(), labels.tolist(), strict=True):
            crowd = int(random.random() < 0.01)
            truth.append({"image_id": image, "category_id": label + 1, "bbox": box, "iscrowd": crowd})
        near = random.random(DETECTIONS) < (0.6 if count else 0)
        chosen = random.integers(max(count, 1), size=DETECTIONS)
        found = np.concatenate([random.uniform(0, 400, (DETECTIONS, 2)), random.uniform(8, 200, (DETECTIONS, 2))], axis=1)
        names, noise = random.choice(CLASSES, DETECTIONS, p=share / share.sum()), random.gamma(2, 0.06, (DETECTIONS, 1))
        if count:
            moved = boxes[chosen] + noise * random.normal(0, 1, (DETECTIONS, 4)) * sides[chosen][:, [0, 1, 0, 1]]
            found[near] = moved[near]
            right = near & (random.random(DETECTIONS) < 0.85)
            names[right] = labels[chosen][right]
        scores = (np.exp(-3 * noise[:, 0]) * np.where(near, 0.9, 0.3) * random.uniform(0.5, 1, DETECTIONS)).round(4)
        found[:, 2:] = found[:, 2:].clip(1)
        for box, name, score in zip(found.round(2).tolist(), names.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image, "category_id": name + 1, "bbox": box, "score": score})
    document = {
        "images": [{"id": n} for n in range(1, images + 1)],
        "annotations": [{"id": n, **entry} for n, entry in enumerate(truth, 1)],
        "categories": [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    (folder / "detections.json").write_text(json.dumps(results))


def measure(evaluator, folder):
    """CPU seconds of each stage, peak memory in MB, and AP with its interval; one evaluation in this process."""
    from workbench.evaluation.coco_metrics import metrics_of, read_detections, run_evaluation
    from workbench.evaluation.intervals import bootstrap, interval
    from workbench.evaluation.resampling import matches_of

    marks = [time.process_time()]
    detections = read_detections(folder / "detections.json")
    marks.append(time.process_time())
    if evaluator == "pycocotools":
        from tests.evaluation.reference import reference_evaluation, reference_matches

        evaluated = reference_evaluation(folder / "annotations.json", detections)
        ap, matches = evaluated.stats[0], reference_matches(evaluated)
    else:
        evaluated = run_evaluation(folder / "annotations.json", detections)
        ap, matches = metrics_of(evaluated)["AP"], matches_of(evaluated)
    del evaluated
    marks.append(time.process_time())
    samples = bootstrap(matches).samples
    marks.append(time.process_time())
    seconds = dict(zip(STAGES, [*np.diff(marks), marks[-1] - marks[0]], strict=True))
    return seconds | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "AP": [ap, *interval(samples, ap)]}
