"""Time and memory of `workbench evaluate` at COCO's size, in this checkout and in an earlier one.

    git worktree add ../before 759142b
    python tests/evaluation/speed.py --before ../before --output results/reference/evaluation.csv

The data set is made up: 5,000 images, 36,000 objects of 80 classes, 100 detections per image. Each repetition is a
process of its own with one thread, and the checkouts alternate. The table has medians of the seconds of processor time.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[2]
IMAGES, OBJECTS, CLASSES, DETECTIONS = 5000, 36_000, 80, 100
STAGES = ("read the detections", "match and count", "matches for the bootstrap", "bootstrap", "all")
MEMORY = "peak memory in MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder of an earlier checkout")
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "after": HERE}
    with tempfile.TemporaryDirectory() as folder:
        write_data_set(Path(folder))
        repetitions = [
            {name: run(path, folder) for name, path in checkouts.items()} for _ in range(options.repetitions)
        ]
    equal = {json.dumps(result.pop("numbers")) for repetition in repetitions for result in repetition.values()}
    assert len(equal) == 1, f"the metrics or the resamples differ: {equal}"
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["stage", *checkouts])
        for stage in (*STAGES, MEMORY):
            medians = (statistics.median(repetition[name][stage] for repetition in repetitions) for name in checkouts)
            writer.writerow([stage, *(f"{value:.0f}" if stage == MEMORY else f"{value:.1f}" for value in medians)])


def run(checkout, folder):
    """Measure a checkout in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['measured'](sys.argv[2]))"
    command = [sys.executable, "-c", code, __file__, str(folder)]
    return json.loads(subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True).stdout)


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
        found = np.concatenate(
            [random.uniform(0, 400, (DETECTIONS, 2)), random.uniform(8, 200, (DETECTIONS, 2))], axis=1
        )
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


def measured(folder):
    """Seconds of each stage of one evaluation in this process, peak memory, and the numbers, as JSON."""
    from workbench.evaluation.coco_metrics import metrics_of, read_detections, run_evaluation
    from workbench.evaluation.intervals import bootstrap
    from workbench.evaluation.resampling import matches_of

    marks = [time.process_time()]
    detections = read_detections(Path(folder) / "detections.json")
    marks.append(time.process_time())
    evaluated = run_evaluation(Path(folder) / "annotations.json", detections)
    metrics = metrics_of(evaluated)
    marks.append(time.process_time())
    matches = matches_of(evaluated)
    del evaluated
    marks.append(time.process_time())
    resampled = bootstrap(matches)
    marks.append(time.process_time())
    seconds = dict(zip(STAGES, [*np.diff(marks), marks[-1] - marks[0]], strict=True))
    numbers = [metrics, resampled.ap, resampled.samples.tolist()]
    return json.dumps(seconds | {MEMORY: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "numbers": numbers})


if __name__ == "__main__":
    main()
