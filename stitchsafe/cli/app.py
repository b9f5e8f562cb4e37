"""The application: its commands, ``--version``, and what becomes of a line that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import stitchsafe
from stitchsafe.cli import judging, learning, predicting
from stitchsafe.cli.outcome import ExitCode, complain

__all__ = ["app", "main"]

app = typer.Typer(
    name="stitchsafe",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"stitchsafe {stitchsafe.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run instance segmentation networks over volumes larger than memory, equal to one pass."""
    if context.invoked_subcommand is None:
        print(context.get_help())


_COMMANDS = (
    predicting.predict,
    predicting.plan,
    judging.check,
    judging.verify,
    judging.evaluate,
    learning.train,
    predicting.demo,
)
for _command in _COMMANDS:
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments
        What follows the program's name; by default what it was called with.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=words, prog_name="stitchsafe", standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "").removesuffix(".")
        complain(f"{message}; see {_help_for(words)}")
        sys.exit(ExitCode.BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        sys.exit(ExitCode.PART_WAY)
    sys.exit(code or ExitCode.DONE)


def _help_for(words: Sequence[str]) -> str:
    command = [word for word in words[:1] if word in {c.__name__ for c in _COMMANDS}]
    return " ".join(["stitchsafe", *command, "--help"])
