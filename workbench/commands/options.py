"""Options that many commands share, and the objects made from the values of these options.

A command declares only its own options, and takes a ``Call`` (or ``RunCall``) as its first argument. The decorator
``with_options`` adds the shared options to the command line. Every command therefore spells and checks the shared
options in the same way.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from workbench.settings.config import PipelineConfig, read_config

if TYPE_CHECKING:
    from workbench.runs.folders import Evaluation, Training
    from workbench.runs.results import ScaleFolder
    from workbench.settings.catalog import Row
    from workbench.settings.digest import SplitDigest
    from workbench.settings.experiment import Experiment
    from workbench.settings.variant import Variant


Table = Annotated[str, typer.Argument(help="Name of a table, for example table3.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Number of processes that decode images.")]
VariantFile = Annotated[
    Path | None,
    typer.Option("--variant", help="JSON file with a variant. Default: the row's variant."),
]


@dataclass(frozen=True)
class Call:
    """Values of the shared options of a command.

    Attributes:
        settings: scale, data set, start, seeds and rehearsal, with the keys of ``snakemake --config``.
        results: folder ``results``.
    """

    settings: PipelineConfig
    results: Path

    @property
    def folder(self) -> ScaleFolder:
        """Folder of the scale, or of its rehearsal."""
        from workbench.runs.results import scale_folder

        return scale_folder(self.results, self.settings.scale, self.settings.rehearsal)


@dataclass(frozen=True)
class RunCall(Call):
    """Values of the shared options, and the training that ``--run`` and ``--seed`` name.

    Attributes:
        training: folder of the training.
        row: row that ``--run`` names; None if ``--run`` names a folder.
    """

    training: Training
    row: Row | None

    @functools.cached_property
    def experiment(self) -> Experiment:
        """Experiment of the row; without a row, the experiment in the run's folder."""
        return self.row.experiment if self.row else self.training.run.read_experiment()

    def variant(self, file: Path | None) -> Variant:
        """Variant in a file; without a file, the row's variant, or the published variant of the detector."""
        from workbench.settings.variant import Variant, published_variant
        from workbench.support.files import read_json
        from workbench.support.strict_yaml import validated

        if file is not None:
            return validated(Variant, read_json(file, "settings of an evaluation"), str(file))
        return self.row.variant if self.row else published_variant(self.experiment)

    def evaluation(self, variant: Variant) -> Evaluation:
        """Folder of the evaluation of the training with a variant on the evaluated split."""
        from workbench.settings.ids import evaluation_id

        return self.training.evaluation(evaluation_id(variant, self.split, self.settings.split))

    @property
    def published_evaluation(self) -> Evaluation:
        """Folder of the evaluation with the published variant, on the number of images in ``--limit-images``."""
        from workbench.settings.variant import published_variant

        limit = {"limit_images": self.settings.limit_images}
        return self.evaluation(published_variant(self.experiment).model_copy(update=limit))

    @property
    def split(self) -> SplitDigest:
        """Digest of the evaluated split."""
        from workbench.runs.find import find_split

        if self.row:
            return self.row.split(self.training.seed)
        return find_split(self.experiment, self.training, self.settings.data_root, self.settings.split)

    @property
    def split_name(self) -> str:
        """Name of the evaluated split in COCO's own folders."""
        from workbench.settings.digest import EVALUATED

        return EVALUATED[self.settings.split]

    @property
    def data_root(self) -> Path:
        """Folder of the data set: from ``--data-root``, named by the scale, or drawn by the workbench."""
        from workbench.runs.find import data_folder, find_data

        if self.row:
            return data_folder(self.settings.scale, self.results, self.settings.data_root, self.training.seed)
        return find_data(self.experiment, self.training, self.settings.data_root)

    def refuse_missing_world(self) -> None:
        """Raise a WorkbenchError if the workbench draws the data set of the training, but has not drawn it yet."""
        from workbench.runs.find import refuse_missing_world

        data = self.experiment.data
        if self.settings.data_root is None and data.kind == "embedded":
            refuse_missing_world(self.data_root, data.world_of(self.training.seed), self.training.run.scale)


def _seed(text: str) -> str:
    if text != "released" and not re.fullmatch(r"[0-9]{1,9}", text):
        raise typer.BadParameter("not a seed; give a number from 0 to 999999999, or 'released'")
    return text if text == "released" else str(int(text))


RESULTS = {"results": (Annotated[Path, typer.Option(help="Folder of all results.")], Path("results"))}
SCALE = {
    "scale": (
        Annotated[
            str | None,
            typer.Option(help="Scale: name or path of its file. Default: mini, and own for a data set that is named."),
        ],
        None,
    )
}
DATA_ROOT = {
    "data_root": (
        Annotated[
            Path | None,
            # checked later, so that the message about an unreadable folder is the pipeline's
            typer.Option(readable=False, help="Folder of a data set in COCO's format. Default: the scale's data set."),
        ],
        None,
    )
}
DATA_FOLDER = {
    "data_root": (
        Annotated[
            Path | None,
            typer.Argument(
                metavar="ROOT", readable=False, help="Folder of a data set in COCO's format. Default: the scale's."
            ),
        ],
        None,
    )
}
"""The data set as an argument, for a command that describes it as it is, with all its faults."""
REHEARSAL = {
    "limit_steps": (Annotated[int | None, typer.Option(min=1, help="Rehearsal: number of one-image steps.")], None),
    "limit_images": (Annotated[int | None, typer.Option(min=1, help="Rehearsal: number of test images.")], None),
}
INIT = {
    "init": (
        Annotated[
            str | None,
            typer.Option(
                metavar="FILE",
                help="Trained detector from which trainings start: file, 'released', or name in a released.yaml.",
            ),
        ],
        None,
    )
}
WORLD = SCALE | DATA_ROOT | INIT | REHEARSAL | RESULTS
"""Options that become a ``Call``."""
SEEDS = {
    "seeds": (Annotated[int, typer.Option(min=1, help="Number of seeds (trainings) per run.")], 1),
    "weights": (
        Annotated[str, typer.Option(help="'trained', or 'released': published weights in the rows that have them.")],
        "trained",
    ),
}
"""Options of commands about tables, in addition to WORLD."""
SPLIT = {
    "split": (
        Annotated[Literal["val", "test"], typer.Option(help="Split of the data set that is evaluated.")],
        "val",
    )
}
"""Option of commands about evaluations, in addition to WORLD."""
RUN = {
    "run": (
        Annotated[
            str | None, typer.Option(help="Name of a row such as t3_full_vfl, or folder of a run or of a training.")
        ],
        None,
    ),
    "seed": (
        Annotated[
            str | None,
            typer.Option(parser=_seed, metavar="SEED", help="Seed of the training (default: 0), or 'released'."),
        ],
        None,
    ),
}
"""Options that become a ``RunCall``, in addition to WORLD."""
NAMED_RUN = {
    "named_run": (Annotated[str | None, typer.Argument(metavar="RUN", help="The same as --run.")], None),
}
"""Run as an argument, for commands without another argument: ``workbench train t3_full_vfl``."""


def with_options(*groups: dict[str, tuple[Any, Any]], as_it_is: bool = False) -> Callable[[Callable], Callable]:
    """Return a decorator that adds groups of options to a command. The command's first argument gets their values.

    Args:
        groups: with RUN, the first argument is a ``RunCall``; with SCALE, WORLD, SEEDS … alone, a ``Call``.
        as_it_is: whether ``data_root`` is the user's folder. By default, it has COCO's own folders; see
            ``workbench.runs.own_data``.
    """
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Callable) -> Callable:
        hints = get_type_hints(command, include_extras=True)
        _, *own = inspect.signature(command).parameters.values()
        parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        shared_options = options | (NAMED_RUN if "run" in options and not any(map(_is_argument, parameters)) else {})
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, (hint, default) in shared_options.items()
        ]

        @functools.wraps(command)
        def with_call(**values: Any) -> Any:
            shared = {name: values.pop(name) for name in shared_options}
            return command(_call(shared, as_it_is), **values)

        with_call.__signature__ = inspect.Signature(parameters)
        with_call.__annotations__ = {p.name: p.annotation for p in parameters}
        del with_call.__wrapped__  # typer would read the command's own signature
        return with_call

    return decorate


def _is_argument(parameter: inspect.Parameter) -> bool:
    """Whether a parameter of a command is an argument without a name, not an option."""
    return any(isinstance(part, typer.models.ArgumentInfo) for part in get_args(parameter.annotation))


def _named(values: dict[str, Any]) -> str | None:
    """Take the run out of the values of the options; None for a command without a run."""
    if "run" not in values:
        return None
    named = [run for run in (values.pop("run"), values.pop("named_run", None)) if run is not None]
    if len(named) != 1:
        problem = "two runs are named; name one" if named else "no run is named; name a row such as t3_full_vfl"
        raise typer.BadParameter(problem, param_hint="--run")
    return named[0]


def _call(values: dict[str, Any], as_it_is: bool) -> Call:
    from workbench.runs.find import data_folder, find_training, on_test
    from workbench.runs.own_data import with_own_data

    run, seed = _named(values), values.pop("seed", None)
    results = values.pop("results", Path("results"))
    settings = read_config({name: value for name, value in values.items() if value is not None})
    if not as_it_is:
        is_folder = run is not None and Path(run).is_dir()  # its scale is that of the folder, so none is announced
        settings = with_own_data(settings, results, *[lambda line: None] * is_folder)
    if run is None:
        return Call(settings, results)
    training, row = find_training(run, seed, settings, results)
    if row and settings.split == "test":
        (row,) = on_test([row], data_folder(settings.scale, results, settings.data_root))
    return RunCall(settings, results, training, row)
