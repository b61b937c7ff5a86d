"""Run single steps of the pipeline, or a trained detector on your own images.

This is the command line ``workbench``. Its commands are in `workbench.commands.groups`.
"""

from __future__ import annotations

import errno
import sys

import typer

from workbench.commands.groups import bench, data_sets, evidence, steps, tables, trained
from workbench.support.errors import WorkbenchError
from workbench.support.surroundings import prepare_messages, prepare_streams, prepare_user, reader_is_gone

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)
for group in (trained, data_sets, tables):
    app.add_typer(group.app)
app.add_typer(evidence.app, name="evidence", rich_help_panel=tables.PANEL)
app.add_typer(steps.app)
app.add_typer(bench.app, name="bench", rich_help_panel="Benchmarks")

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
