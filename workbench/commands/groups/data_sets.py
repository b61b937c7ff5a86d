"""Commands for data sets: look at one, convert one, draw one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from workbench.commands.groups.printing import print_outcomes
from workbench.commands.options import DATA_FOLDER, RESULTS, SCALE, Call, with_options
from workbench.settings.data import WORLDS

app = typer.Typer()
command = partial(app.command, rich_help_panel="Data sets")


@command()
@with_options(SCALE, DATA_FOLDER, RESULTS, as_it_is=True)
def data(
    call: Call,
    images: Annotated[int, typer.Option(min=1, help="Largest number of images that are measured in strides.")] = 300,
    out: Annotated[
        Path | None, typer.Option(help="Folder for data.html and data.png. Default: below results/<scale>/data.")
    ] = None,
) -> None:
    """Show what is in a data set, all faults of its files, its objects beside COCO's, and pictures with true boxes."""
    from workbench.commands.data import describe_data

    print_outcomes(describe_data(call.settings.scale, call.settings.data_root, images, call.folder.path / "data", out))


@command()
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


@command()
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
