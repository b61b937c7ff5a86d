"""Run single steps of the pipeline, or a trained detector on your own images.

This is the command line ``workbench``. Each command imports its modules only when it runs, so that light commands start
at once.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from workbench.commands.groups import bench, evidence
from workbench.commands.options import DATA_ROOT, RESULTS, RUN, SCALE, SEEDS, WORLD, Call, RunCall, Table, with_options
from workbench.settings.data import WORLDS
from workbench.support.errors import WorkbenchError
from workbench.support.surroundings import prepare_messages, prepare_streams, prepare_user, reader_is_gone

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)
app.add_typer(bench, name="bench")
app.add_typer(evidence, name="evidence")

Figure = Literal["loss", "ap", "ranking"]
Workers = Annotated[int | None, typer.Option(min=0, help="Number of processes that decode images.")]
VariantFile = Annotated[
    Path | None,
    typer.Option("--variant", help="JSON file with a variant. Default: the row's variant."),
]


UNNAMED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS)
"""Numbers of system errors that are about a file even if the error names no file."""


def main() -> None:
    """Run a command; a user's mistake ends in one line on stderr and exit code 1."""
    prepare_streams()
    prepare_user()
    prepare_messages()
    try:
        # Typer catches Ctrl-C, and returns an exit code for it; a command returns nothing.
        if app(standalone_mode=False):
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        sys.exit(1)  # as click does
    except MemoryError:
        sys.exit("workbench: not enough memory on this machine; end other programs, or choose a larger machine")
    except WorkbenchError as error:
        sys.exit(f"workbench: {error}")
    except (typer.Abort, KeyboardInterrupt):
        print("workbench: stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None and error.errno not in UNNAMED:
            raise  # an error that is not about a file
        sys.exit(f"workbench: {error.filename or 'writing'}: {error.strerror}; check path, permissions and free space")
    except Exception as error:
        if hasattr(error, "show"):  # a mistake on the command line; typer prints the message
            error.show()
            sys.exit(2)
        raise


@app.command()
@with_options(SCALE)
def dataset(
    call: Call,
    root: Annotated[Path, typer.Argument(help="Folder to write. An embedded data set in this folder is replaced.")],
    world: Annotated[
        int | None, typer.Option(min=0, max=WORLDS - 1, help="Number of the world. Default: the scale's, or 0.")
    ] = None,
) -> None:
    """Draw one world of a scale's embedded data set."""
    from workbench.data.embedded import draw_data_set
    from workbench.settings.catalog import embedded_settings
    from workbench.support.progress import Reporter

    settings = embedded_settings(call.settings.scale).drawn_for(0)
    if world is not None:
        settings = settings.model_copy(update={"world": world})
    with Reporter("data set", settings.train_images + settings.val_images) as reporter:
        draw_data_set(settings, root, progress=lambda done, _: reporter.advance(done, "images"))


@app.command()
@with_options(SCALE, RESULTS)
def data(
    call: Call,
    root: Annotated[
        Path | None,
        typer.Argument(readable=False, help="Folder of a data set in COCO's format. Default: the scale's data set."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Largest number of images that are measured in strides.")] = 300,
    out: Annotated[
        Path | None, typer.Option(help="Folder for data.html and data.png. Default: below results/<scale>/data.")
    ] = None,
) -> None:
    """Show what is in a data set, all faults of its files, its objects beside COCO's, and pictures with true boxes."""
    from workbench.commands.data import describe_data

    _print_outcomes(describe_data(call.settings.scale, root, images, call.folder.path / "data", out))


def _print_outcomes(outcomes: Iterable[str | WorkbenchError]) -> None:
    """Print texts on standard output and errors on standard error; exit with 1 if there was an error."""
    failed = False
    for outcome in outcomes:
        if isinstance(outcome, WorkbenchError):
            failed = True
            sys.stdout.flush()  # keeps the order where both are one file
            print(f"workbench: {outcome}", file=sys.stderr)
        else:
            print(outcome)
    if failed:
        sys.exit(1)


@app.command()
def convert(
    form: Annotated[
        Literal["voc", "yolo", "createml", "labelme"], typer.Argument(metavar="FORMAT", help="Its format.")
    ],
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder of the data set. It is only read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write: a new or an empty one.")],
    counted_from: Annotated[
        Literal["1", "0"] | None,
        typer.Option(help="For VOC: 1 if the files count pixels from 1 (default), 0 if they state positions from 0."),
    ] = None,
) -> None:
    """Write a data set in the format voc, yolo, createml or labelme in COCO's layout."""
    from workbench.commands.convert import convert as run_conversion

    print(run_conversion(form, source, out, None if counted_from is None else int(counted_from)))


@app.command()
def weights(
    name: Annotated[str, typer.Argument(help="Backbone such as resnet50, or name of weights in a released.yaml.")],
    file: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Download ImageNet weights of a backbone, or published weights of a detector, and check their digest."""
    from workbench.weights.download import fetch_weights

    fetch_weights(name, file)


@app.command()
@with_options(RUN, WORLD)
def pretrain(
    call: RunCall,
    file: Annotated[Path, typer.Argument(help="File to write, FILE.safetensors; FILE.json gets the facts.")],
) -> None:
    """Pretrain the backbone of a run on drawn objects, for scales whose backbones start from such weights."""
    from workbench.commands.pretrain import write_backbone
    from workbench.support.devices import prepare_threads

    prepare_threads()
    write_backbone(call.experiment, file)


@app.command()
@with_options(RUN, WORLD)
def train(
    call: RunCall,
    pretrained: Annotated[Path | None, typer.Option(help="File with ImageNet weights of the backbone.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Largest number of GPUs, or of processes on a CPU.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Fail if no GPU is available.")] = False,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Canvases that a device computes at a time. Default: its share of a step.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Train a run, or resume its training."""
    from workbench.runs.folders import RELEASED, backbone_weights
    from workbench.support.devices import available, decoding_processes, prepare_threads, refuse_cpu, reserved_gpus
    from workbench.training.loop import train as run_training
    from workbench.training.processes import refuse_second_training
    from workbench.training.start import initial_detector
    from workbench.training.state import Machine
    from workbench.weights.download import check_backbone

    refuse_second_training(call.training)
    used = call.experiment.training.devices(available(devices))
    with reserved_gpus(used):
        if gpu:
            refuse_cpu()
        prepare_threads()
        if call.training.seed == RELEASED:
            raise WorkbenchError("--seed released: published weights are not trained; give a number")
        if pretrained is None and call.experiment.backbone.pretrained not in (True, False):
            pretrained = backbone_weights(call.results, call.experiment)
        call.refuse_missing_world()
        weights = check_backbone(pretrained, call.experiment.backbone) if pretrained else None
        detector = initial_detector(call.experiment, int(call.training.seed), pretrained, call.training.title)
        call.training.run.write_experiment(call.experiment)
        machine = Machine(devices, micro_batch, decoding_processes(workers, used))
        run_training(detector, call.experiment, call.training, call.data_root, machine, weights)


@app.command()
@with_options(RUN, WORLD)
def detect(call: RunCall, variant: VariantFile = None, workers: Workers = None) -> None:
    """Detect objects in val2017 with a trained run and write detections.json."""
    from workbench.commands.detect import write_detections
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        settings = call.variant(variant)
        evaluation = call.evaluation(settings)
        write_detections(evaluation, settings, call.split, call.data_root, decoding_processes(workers))


@app.command()
@with_options(RUN, WORLD)
def submission(
    call: RunCall,
    variant: VariantFile = None,
    split: Annotated[str, typer.Option(help="Split: test-dev2017 or val2017.")] = "test-dev2017",
    out: Annotated[Path, typer.Option(help="Folder for the zip file.")] = Path("."),
    workers: Workers = None,
) -> None:
    """Write detections of test-dev as a zip file in the format of COCO's evaluation server."""
    from workbench.commands.detect import write_submission
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        processes = decoding_processes(workers)
        print(write_submission(call.training, call.variant(variant), call.data_root, split, out, processes))


@app.command()
@with_options(RUN, WORLD)
def evaluate(call: RunCall, variant: VariantFile = None) -> None:
    """Compute COCO's metrics of detections.json and write metrics.json."""
    from workbench.commands.evaluate import write_metrics

    settings = call.variant(variant)
    metrics = write_metrics(call.evaluation(settings), settings, call.split, call.data_root)
    values = (
        f"{name} {'n/a' if metrics[name] is None else f'{100 * metrics[name]:.1f}'}" for name in ("AP", "AP50", "AP75")
    )
    print(f"{call.training.title}: {'  '.join(values)}")


def _studied(study: Callable[..., Any], subject: Any, call: RunCall, workers: int | None) -> Any:
    """Result of a function of ``workbench.commands.study``, on one device."""
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        return study(subject, call.data_root, decoding_processes(workers), call.settings.limit_images)


@app.command()
@with_options(RUN, WORLD)
def oracle(call: RunCall, workers: Workers = None) -> None:
    """Report the AP of a trained run with one output at a time replaced by ground truth (Table 1)."""
    from workbench.commands.study import study_oracles

    print(_studied(study_oracles, call.published_evaluation, call, workers))


@app.command("dead-units")
@with_options(RUN, WORLD)
def dead_units(call: RunCall, workers: Workers = None) -> None:
    """Count the channels of a trained run that are zero behind their ReLU at every location of val2017."""
    from workbench.commands.study import study_dead_units

    print(_studied(study_dead_units, call.training, call, workers))


@app.command()
@with_options(RUN, WORLD)
def ranking(call: RunCall, workers: Workers = None) -> None:
    """Draw the scores of a trained run against the IoU of its boxes, with rank correlations."""
    from workbench.commands.study import study_ranking
    from workbench.evaluation.rank_correlation import rank_correlations

    locations = _studied(study_ranking, call.published_evaluation, call, workers)
    rho, tau = rank_correlations(locations["iou"], locations["score"])
    print(f"{call.training.title}: {len(locations)} locations  Spearman {rho:.3f}  Kendall {tau:.3f}")


@app.command()
@with_options(RUN, WORLD)
def import_checkpoint(
    call: RunCall, file: Annotated[Path, typer.Argument(help="Checkpoint of MMDetection 2 or 3, also as .safetensors.")]
) -> None:
    """Import published weights as the training ``released`` of a run. Nothing in the file is executed."""
    from workbench.weights.mmdet_import import import_checkpoint as run_import

    run = call.training.run
    run.write_experiment(call.experiment)
    run_import(
        file,
        run.training("released"),
        call.settings.data_root,
        lambda line: print(f"{run.name}: {line}", file=sys.stderr),
    )


@app.command()
@with_options(WORLD, SEEDS)
def table(call: Call, name: Table) -> None:
    """Write a table of measured and published results as CSV, Markdown and HTML."""
    from workbench.report.outcomes import make_table

    print(make_table(name, call.settings, call.results))


@app.command()
@with_options(WORLD, SEEDS)
def figure(
    call: Call,
    name: Table,
    kind: Annotated[Figure, typer.Option(help="Kind: loss curves, AP as dots, or scores against IoU.")] = "loss",
) -> None:
    """Draw a figure of a table: loss curves, AP as dots, or scores against the IoU of the boxes."""
    from workbench.report.outcomes import draw_figure

    draw_figure(name, kind, call.settings, call.results)


@app.command()
@with_options(WORLD, SEEDS)
def claims(
    call: Call, table: Annotated[str | None, typer.Argument(help="Table whose claims are judged. Default: all.")] = None
) -> None:
    """Judge the papers' claims by the existing evaluations, and write CSV, Markdown, HTML and a forest plot."""
    from workbench.report.claims.write import write_claims, write_verdicts

    if table is None:
        print(write_claims(call.settings, call.results))
    else:
        print(write_verdicts(table, call.settings, call.results))


@app.command()
@with_options(WORLD)
def notebook(
    call: Call, names: Annotated[list[str], typer.Argument(help="Notebooks such as star_points, or 'all'.")]
) -> None:
    """Execute notebooks and write them with their outputs to results/<scale>/notebooks."""
    from workbench.report.notebooks import execute_notebook, notebook_names

    for name in notebook_names() if names == ["all"] else names:
        print(execute_notebook(name, call.folder.path, call.settings.scale, call.settings.data_root))


@app.command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def plan(
    call: Call,
    table: Annotated[str, typer.Argument(help="Name of a table, for example table3; or 'claims'.")],
    images_per_second: Annotated[
        float | None,
        typer.Option(help="Training speed of one GPU (for claims: on COCO). Default: measured in earlier trainings."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, max=10_000, help="For claims: number of seeds that are planned. Default: 10.")
    ] = None,
) -> None:
    """List the trainings that a table needs, or the seeds that the claims need, with time, memory and disk space."""
    from workbench.commands.plan import describe
    from workbench.commands.plan_claims import PLANNED_SEEDS, describe_claims

    if table == "claims":
        print(describe_claims(call.settings, call.results, seeds or PLANNED_SEEDS, images_per_second))
        return
    if seeds is not None:
        raise WorkbenchError("--seeds: a table is planned for one seed; leave it out, or plan claims")
    print(describe(table, call.settings.scale, call.results, call.settings.data_root, images_per_second))


@app.command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def registration(
    call: Call,
    tables: Annotated[list[str], typer.Argument(help="Tables of the study, for example table1 table3 controls.")],
    first_seed: Annotated[int, typer.Option(min=0, max=999_999_000, help="First seed; the others follow it.")],
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Number of seeds (trainings) per run.")],
) -> None:
    """Print a study for preregistration.yaml: its rows, runs, claims, and digests of code and settings."""
    from workbench.commands.registration import present_study, study_text, with_pilot
    from workbench.runs.find import data_folder

    scale, data_root = call.settings.scale, call.settings.data_root
    data_folder(scale, call.results, data_root)  # without data, the names of runs would lack their digest
    study = present_study(list(dict.fromkeys(tables)), scale, range(first_seed, first_seed + seeds), data_root)
    print(study_text(scale, with_pilot(study, scale, call.results)), end="")


@app.command()
@with_options(RUN, WORLD)
def predict(
    call: RunCall,
    images: Annotated[
        list[Path], typer.Argument(readable=False, help="Images, or folders of images, with their subfolders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the drawn images and JSON files.")] = Path("predictions"),
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of the boxes that are kept.")] = 0.3,
) -> None:
    """Detect objects in your own images, and write the images with boxes and a JSON file."""
    from workbench.commands.predict import predict_images
    from workbench.support.devices import prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        _print_outcomes(predict_images(images, call.training, out, min_score))
