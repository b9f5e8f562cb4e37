"""The application: its commands, ``--version``, and what becomes of a line that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

import stitchsafe
from stitchsafe.cli import exporting, judging, learning, predicting, viewing
from stitchsafe.cli.outcome import ExitCode, complain

__all__ = ["app", "run"]

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
    judging.seams,
    judging.evaluate,
    viewing.view,
    learning.train,
    exporting.export,
    predicting.demo,
)
for _command in _COMMANDS:
    app.command()(_command)


def run(words: Sequence[str]) -> int:
    """Run the command line with what follows the program's name; returns the exit code."""
    try:
        code = app(args=list(words), prog_name="stitchsafe", standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "").removesuffix(".")
        complain(f"{message}; see {_help_for(words)}")
        return ExitCode.BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return ExitCode.PART_WAY
    return code or ExitCode.DONE


def _help_for(words: Sequence[str]) -> str:
    command = [word for word in words[:1] if word in {c.__name__ for c in _COMMANDS}]
    return " ".join(["stitchsafe", *command, "--help"])
