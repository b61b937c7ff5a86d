"""Start of a training: the detector with its initial weights, and facts about the file that they are from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workbench.commands.options import RunCall
from workbench.data.coco import read_coco
from workbench.data.splits import read_splits
from workbench.detectors import Detector
from workbench.runs.results import backbone_weights, start_file
from workbench.settings.digest import VAL
from workbench.settings.experiment import Experiment
from workbench.settings.initial import Start
from workbench.settings.released import read_released
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_object, write_json_atomically
from workbench.support.progress import Reporter
from workbench.training.processes import is_first_process
from workbench.training.start import initial_detector
from workbench.weights.download import check_backbone, check_file
from workbench.weights.start import start_from

IDENTITY = ("file", "sha256")
"""Facts that identify a file of weights."""


def start_detector(call: RunCall, pretrained: Path | None) -> tuple[Detector, dict[str, str] | None]:
    """Build the detector of a training, with its initial weights.

    Args:
        pretrained: file with weights of the backbone; None for the file of the checkout, if the run has one.

    Returns:
        The detector; name and SHA-256 of the file with weights, or None for random weights.

    Raises:
        WorkbenchError: a file cannot be read, or it is not the file of this run.
    """
    experiment, seed, title = call.experiment, int(call.training.seed), call.training.title
    if experiment.init is None:
        if call.settings.init is not None:
            raise WorkbenchError(f"{title}: this run starts from no trained detector; name a row, or leave out --init")
        if pretrained is None and experiment.backbone.pretrained not in (True, False):
            pretrained = backbone_weights(call.results, experiment)
        facts = check_backbone(pretrained, experiment.backbone) if pretrained else None
        return initial_detector(experiment, seed, pretrained, title), facts
    if pretrained is not None:
        raise WorkbenchError(f"{pretrained}: this run starts from a trained detector; leave out --pretrained")
    detector = initial_detector(experiment, seed, title=title)
    return detector, _start(call, detector, Reporter(title, 0, quiet=not is_first_process()).say)


def _start(call: RunCall, detector: Detector, say: Callable[[str], None]) -> dict[str, str]:
    """Give a detector the weights of the file of its run; return name and SHA-256 of the file.

    A training that has a checkpoint or results is not started again. It therefore does not need the file.
    """
    run, training, file = call.training.run, call.training, _file(call)
    stated, listed = None, call.experiment.init.sha256
    has_state = training.last_checkpoint.is_file() or training.weights.is_file()
    if has_state and training.start.is_file():
        stated = read_object(training.start, "facts about the start", IDENTITY)
        stated, listed = {key: stated[key] for key in IDENTITY}, stated["sha256"]
        if file is None or not file.exists():
            return stated
    if file is None:
        raise WorkbenchError(
            f"{run.name}: starts from a trained detector, whose file has the SHA-256 {listed}…; add --init FILE"
        )
    is_listed = file.stem in read_released()
    remedy = f"run: workbench weights {file.stem} {file}" if is_listed else "name the file of this run"
    facts = check_file(file, {listed}, f"the start of {run.name}", remedy)
    if not has_state:
        account = start_from(file, detector, call.experiment, _class_names(call.data_root, call.experiment))
        for line in account.lines:
            say(line)
        if is_first_process():
            write_json_atomically(training.start, facts | account.facts)
        say(f"start: the source of each tensor is in {training.start}")
    return stated or facts  # the file may have another name now


def _file(call: RunCall) -> Path | None:
    """File of the trained detector; None if a run's folder is named without a file."""
    if call.row is None:
        name = call.settings.init
        return start_file(call.results, Start(name, name in read_released(), None)) if name else None
    if call.row.start.fault:
        raise WorkbenchError(call.row.start.fault)
    return start_file(call.results, call.row.start)


def _class_names(root: Path, experiment: Experiment) -> tuple[str, ...]:
    """Names of the classes of a data set, in the order of a detector's outputs."""
    classes = experiment.data.classes
    try:
        names = read_coco(root, VAL, training=False, limit=1).class_names
    except WorkbenchError:
        read_splits(root, classes)  # reports all faults of the data
        raise
    if len(names) != classes:
        read_splits(root, classes)
    return names
