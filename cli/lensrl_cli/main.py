"""The command and its verbs; every error a person can cause is one line on stderr and exit code 2."""

from __future__ import annotations

import sys

import typer

from lensrl import LensrlError, __version__
from lensrl_cli import agree, bottleneck, cka, contribution, correlate, deltas, patch, report, run, show, verify
from lensrl_cli.output import plain

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("contribution")(contribution.contribution)
app.command("patch")(patch.patch)
app.command("correlate")(correlate.correlate)
app.command("bottleneck")(bottleneck.bottleneck)
app.command("agree")(agree.agree_on_layers)
app.command("deltas")(deltas.deltas)
app.command("cka")(cka.cka)
app.command("report")(report.report)
app.command("show")(show.show_path)
app.command("verify")(verify.verify_path)


@app.callback(invoke_without_command=True)
def lensrl(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    """Where in a transformer does RL post-training do its work?

    Start with: lensrl run runs/tiny.toml
    """
    if version:
        typer.echo(f"lensrl {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line."""
    try:
        code = app(prog_name="lensrl", standalone_mode=False)
    except (LensrlError, typer.TyperException) as error:
        print(f"lensrl: {plain(_line(error))}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: `lensrl ... | head`
        sys.stderr.close()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _line(error: LensrlError | typer.TyperException) -> str:
    if isinstance(error, LensrlError):
        return " ".join(str(error).split())
    message = " ".join(error.format_message().split()).replace("Value error, ", "").removesuffix(".")
    verbs = [command.name or "" for command in app.registered_commands]
    given = sys.argv[1]
    if given in verbs:
        return f"{message} (see: lensrl {given} --help)"
    known = "" if given.startswith("-") or "Did you mean" in message else f"; known: {', '.join(verbs)}"
    return f"{message}{known} (see: lensrl --help)"


if __name__ == "__main__":
    main()
