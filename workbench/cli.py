"""``workbench``: each step of the pipeline by hand, and a detector for one's own pictures.

Commands import what they need when they run, so that the light ones start at once.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workbench.support.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.settings.config import PipelineConfig

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)

bench = typer.Typer(no_args_is_help=True, help="Small benchmarks on this machine.")
app.add_typer(bench, name="bench")

Folder = Annotated[Path, typer.Argument(help="A run's folder, results/<scale>/runs/<run>.")]
Run = Annotated[Path, typer.Option("--run", help="A trained run, results/<scale>/runs/<run>.")]
Seed = Annotated[int, typer.Option(min=0, help="Which training of the run.")]


def _trained(text: str) -> int | str:
    if text != "released" and not text.isdecimal():
        raise typer.BadParameter("a seed, 0 or more, or 'released'")
    return text if text == "released" else int(text)


Trained = Annotated[
    str,
    typer.Option("--seed", parser=_trained, metavar="SEED", help="Which training, or 'released' for imported weights."),
]
Figure = Literal["loss", "ap", "ranking"]
Data = Annotated[Path, typer.Option("--data", help="The data set: annotations/, train2017/, val2017/.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many trainings of each run.")]
Scale = Annotated[str, typer.Option(help="A scale in experiments/scales.")]
Weights = Annotated[str, typer.Option(help="'released': published weights where a row has some.")]
Results = Annotated[Path, typer.Option(help="Where results lie.")]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="A COCO-format data set.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")]
VariantFile = Annotated[Path, typer.Option("--variant", help="How to evaluate: a file in results/<scale>/variants.")]
LimitSteps = Annotated[int | None, typer.Option(min=1, help="Rehearsal: steps of one image.")]
LimitImages = Annotated[int | None, typer.Option(min=1, help="Rehearsal: test images.")]


def _settings(*given: object) -> PipelineConfig:
    """What ``snakemake --config`` would be given."""
    from workbench.settings.config import read_config

    return read_config(
        dict(zip(("scale", "seeds", "weights", "data_root", "limit_steps", "limit_images"), given, strict=True))
    )


def main() -> None:
    """Entry point: a mistake of the user's ends in one line on stderr and exit code 1."""
    try:
        app(standalone_mode=False)
    except WorkbenchError as error:
        sys.exit(f"workbench: {error}")
    except (typer.Abort, KeyboardInterrupt):
        print("workbench: stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise  # nothing of a file's
        sys.exit(
            f"workbench: {error.filename or 'writing'}: {error.strerror}; check the path, its rights and the space"
        )
    except Exception as error:
        if hasattr(error, "show"):  # a mistake on the command line, told by typer
            error.show()
            sys.exit(2)
        raise


@app.command()
def dataset(
    root: Annotated[Path, typer.Argument(help="Folder to write; replaced if it is there.")],
    scale: Scale = "mini",
) -> None:
    """Draw a scale's embedded data set."""
    from workbench.data.embedded import draw_data_set
    from workbench.settings.catalog import embedded_settings
    from workbench.support.progress import Reporter

    settings = embedded_settings(scale)
    with Reporter("data set", settings.train_images + settings.val_images) as reporter:
        draw_data_set(settings, root, progress=lambda done, _: reporter.advance(done, "images"))


@app.command()
def weights(
    name: Annotated[str, typer.Argument(help="A backbone, e.g. resnet50, or a checkpoint of released.yaml.")],
    file: Annotated[Path, typer.Argument(help="Where to put the weights.")],
) -> None:
    """Fetch a backbone's ImageNet weights, or a detector's published ones, and check their digest."""
    from workbench.weights.download import fetch_weights

    fetch_weights(name, file)


@app.command()
def train(
    run: Folder,
    data: Data,
    seed: Seed = 0,
    pretrained: Annotated[Path | None, typer.Option(help="Weights of the backbone.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or CPU processes.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="On GPUs, or not at all.")] = False,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Images computed at a time on a device.")] = None,
    workers: Workers = None,
) -> None:
    """Train a run, or go on where it was stopped."""
    from workbench.runs.load import read_experiment
    from workbench.support.devices import decoding_processes, prepare_threads, refuse_cpu, reserved_gpus
    from workbench.training.loop import train as run_training
    from workbench.training.start import initial_detector
    from workbench.training.state import Machine

    with reserved_gpus(devices):
        if gpu:
            refuse_cpu()
        prepare_threads()
        experiment, title = read_experiment(run), f"{run.name} seed {seed}"
        detector = initial_detector(experiment, seed, pretrained, title)
        machine = Machine(devices, micro_batch, decoding_processes(workers, devices))
        run_training(detector, experiment, run / f"seed{seed}", data, seed, machine, title)


@app.command()
def detect(run: Folder, variant: VariantFile, data: Data, seed: Trained = "0", workers: Workers = None) -> None:
    """Run a trained detector over val2017 and write detections.json."""
    from workbench.commands.detect import detect_run
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        detect_run(run, variant, data, seed, decoding_processes(workers))


@app.command()
def submission(
    run: Folder,
    variant: VariantFile,
    data: Data,
    seed: Trained = "0",
    split: Annotated[str, typer.Option(help="test-dev2017, or val2017.")] = "test-dev2017",
    out: Annotated[Path, typer.Option(help="Folder for the zip file.")] = Path("."),
    workers: Workers = None,
) -> None:
    """Write the file that COCO's evaluation server took: detections of test-dev, zipped."""
    from workbench.commands.detect import write_submission
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        print(write_submission(run, variant, data, seed, split, out, decoding_processes(workers)))


@app.command()
def evaluate(run: Folder, variant: VariantFile, data: Data, seed: Trained = "0") -> None:
    """Compute COCO's metrics of detections.json and write metrics.json."""
    from workbench.commands.evaluate import evaluate_run
    from workbench.runs.folders import seed_folder

    metrics = evaluate_run(run, variant, data, seed)
    shown = "  ".join(
        f"{k} {'n/a' if metrics[k] is None else f'{100 * metrics[k]:.1f}'}" for k in ("AP", "AP50", "AP75")
    )
    print(f"{run.name} {seed_folder(seed)}: {shown}")


@app.command()
def oracle(run: Run, data: Data, seed: Trained = "0", workers: Workers = None) -> None:
    """Put ground truth in the place of each of a trained run's outputs, and see what AP that would give."""
    from workbench.commands.study import study_oracles
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        print(study_oracles(run, data, seed, decoding_processes(workers)))


@app.command()
def ranking(
    run: Run, data: Data, seed: Trained = "0", limit_images: LimitImages = None, workers: Workers = None
) -> None:
    """Draw a trained run's scores against the IoU of its boxes, with their rank correlation."""
    from workbench.commands.study import study_ranking
    from workbench.evaluation.correlation import kendall, spearman
    from workbench.runs.folders import seed_folder
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        cells = study_ranking(run, data, seed, decoding_processes(workers), limit_images)
    rho, tau = (correlation(cells["iou"], cells["score"]) for correlation in (spearman, kendall))
    print(f"{run.name} {seed_folder(seed)}: {len(cells)} cells  Spearman {rho:.3f}  Kendall {tau:.3f}")


@app.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint of MMDetection 2 or 3.")],
    run: Annotated[Path, typer.Option(help="The run of the same detector, results/<scale>/runs/<run>.")],
    data: Annotated[Path | None, typer.Option("--data", help="Its data set, where the classes are not COCO's.")] = None,
) -> None:
    """Turn published weights into a run's, for `--seed released`; nothing that the file holds is executed."""
    from workbench.weights.mmdet_import import import_checkpoint as run_import

    run_import(file, run, data, lambda line: print(f"{run.name}: {line}", file=sys.stderr))


@app.command()
def table(
    name: Annotated[str, typer.Argument(help="e.g. table3")],
    scale: Scale = "mini",
    seeds: Seeds = 1,
    weights: Weights = "trained",
    results: Results = Path("results"),
    data_root: DataRoot = None,
    limit_steps: LimitSteps = None,
    limit_images: LimitImages = None,
) -> None:
    """Write a table of what has been measured beside what was published, as CSV and Markdown."""
    from workbench.report.outcomes import make_table

    settings = _settings(scale, seeds, weights, data_root, limit_steps, limit_images)
    print(make_table(name, settings, results))


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="e.g. table3")],
    scale: Scale = "mini",
    seeds: Seeds = 1,
    weights: Weights = "trained",
    results: Results = Path("results"),
    data_root: DataRoot = None,
    limit_steps: LimitSteps = None,
    limit_images: LimitImages = None,
    kind: Annotated[Figure, typer.Option(help="Loss curves, AP as bars, or scores against IoU.")] = "loss",
) -> None:
    """Draw a table's loss curves, its AP as bars, or its scores against the IoU of their boxes."""
    from workbench.report.outcomes import draw_figure

    settings = _settings(scale, seeds, weights, data_root, limit_steps, limit_images)
    draw_figure(name, kind, settings, results)


@app.command()
def claims(
    scale: Scale = "mini",
    seeds: Seeds = 1,
    weights: Weights = "trained",
    results: Results = Path("results"),
    data_root: DataRoot = None,
    limit_steps: LimitSteps = None,
    limit_images: LimitImages = None,
) -> None:
    """Judge the paper's claims by what has been measured, as CSV and Markdown."""
    from workbench.report.claims import write_claims

    settings = _settings(scale, seeds, weights, data_root, limit_steps, limit_images)
    print(write_claims(settings, results))


@app.command()
def notebook(
    name: Annotated[str, typer.Argument(help="One of notebooks/, e.g. star_points")],
    scale: Scale = "mini",
    results: Results = Path("results"),
    data_root: DataRoot = None,
    rehearsal: Annotated[bool, typer.Option("--rehearsal", help="Show what a rehearsal made.")] = False,
) -> None:
    """Run a notebook from top to bottom and keep it with what it shows in results/<scale>/notebooks."""
    from workbench.report.notebooks import execute_notebook
    from workbench.runs.folders import scale_folder
    from workbench.settings.catalog import Rehearsal

    folder = scale_folder(results, scale, Rehearsal(steps=1) if rehearsal else None)
    print(execute_notebook(name, folder, scale, data_root))


@app.command()
def plan(
    table: Annotated[str, typer.Argument(help="e.g. table3")],
    scale: Scale = "mini",
    results: Results = Path("results"),
    data_root: DataRoot = None,
    images_per_second: Annotated[float | None, typer.Option(help="Of one GPU in training; else as measured.")] = None,
) -> None:
    """List the trainings behind a table: which are shared or done, and the time, memory and disk that they take."""
    from workbench.commands.plan import describe

    print(describe(table, scale, results, data_root, images_per_second))


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    run: Run,
    seed: Trained = "0",
    out: Annotated[Path, typer.Option(help="Folder for drawn pictures and detections.json.")] = Path("predictions"),
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Draw and list boxes of at least this score.")] = 0.3,
) -> None:
    """Detect objects in your own pictures: drawn boxes and a JSON file."""
    from workbench.commands.predict import predict_images

    for line in predict_images(images, run, seed, out, min_score):
        print(line)


@bench.command()
def deform(repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5) -> None:
    """Time the back ends of deformable convolution, forward and backward."""
    from workbench.commands.bench.deform import bench_deform
    from workbench.support.devices import prepare_threads

    prepare_threads()
    print(bench_deform(repeats))


@bench.command()
def speed(
    table: Annotated[str, typer.Argument(help="e.g. table4")],
    row: Annotated[list[str] | None, typer.Option(help="A row, and more of them; all if there is none.")] = None,
    scale: Scale = "mini",
    data_root: DataRoot = None,
    images: Annotated[int, typer.Option(min=1, help="Timed images.")] = 20,
    results: Results = Path("results"),
) -> None:
    """Time a table's detectors, one image at a time: loading, forward pass and post-processing apart."""
    from workbench.commands.bench.speed import bench_speed
    from workbench.support.devices import prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        print(bench_speed(table, row or [], scale, data_root, images, results))
