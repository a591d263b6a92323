"""The command and its verbs. Every error that a person can cause is one line on stderr, with exit code 2."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup, TyperOption

from lensrl import __version__
from lensrl.errors import LensrlError
from lensrl_cli.output import plain

# A verb -> its line in `lensrl --help`. The function VERB in lensrl_cli/VERB.py does the work and has the full help.
# A verb that Python reserves has an underscore there: import_.
VERBS = {
    "recipe": "Print a recipe with every setting.",
    "run": "Train, score and measure every run of a recipe.",
    "import": "Make a study of models that were trained elsewhere.",
    "contribution": "Show the contribution C_l of each layer, with intervals.",
    "patch": "Put layers of one run into another; measure the recovery.",
    "correlate": "Correlate weight deltas and other predictors with C_l.",
    "overlap": "Show whether single layers solve the same items.",
    "bottleneck": "Judge the middle-layer account, claim by claim.",
    "agree": "Compare the contribution profiles of several studies.",
    "deltas": "Show how training changed the weights.",
    "cka": "Compare the activations of two runs, layer by layer.",
    "export": "Write a run or a graft as a Hugging Face folder.",
    "report": "Write an HTML report about a study.",
    "explore": "Serve reports to the browser, live while studies are made.",
    "show": "List the contents of a folder, a study or a file.",
    "verify": "Check that every file holds the bytes that were written.",
}


class LazyVerbs(TyperGroup):
    """The verbs of `VERBS`. The module of a verb is imported when the verb is called or asked for its own help.

    Importing all verbs takes half a second, and `lensrl --help` needs none of them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for verb, line in VERBS.items():
            self.add_command(TyperCommand(verb, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the verb that `args` names with its real command. Raises TyperException for an unknown verb."""
        verb, listed, rest = super().resolve_command(ctx, args)
        if verb == "import":
            rest = _layers_as_runs(rest)
        return verb, listed if verb is None else _load(verb), rest


class Verb(TyperCommand):
    """A verb that refuses an option which is given twice, where the last value would count without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words after a verb. Raises TyperException for words that it does not understand."""
        given = self.make_parser(ctx).parse_args(args=[*args])[2]  # the parameters, in the order of the words
        for option in (one for one in given if isinstance(one, TyperOption) and not one.is_flag and not one.multiple):
            if given.count(option) > 1:
                raise typer.BadParameter(f"{option.opts[0]} is given twice, and takes one value")
        return super().parse_args(ctx, args)


def python_name(verb: str) -> str:
    """Return the name of a verb's module and function: `import_` for `import`, which Python reserves."""
    return f"{verb}_" if iskeyword(verb) else verb


def _load(verb: str) -> Any:
    """Import a verb and return its command."""
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    name = python_name(verb)
    function = getattr(import_module(f"lensrl_cli.{name}"), name)
    alone.command(verb, cls=Verb, help=_help(inspect.getdoc(function) or ""))(function)
    return typer.main.get_command(alone)


def _help(text: str) -> str:
    """Return a docstring for a terminal of any width: a line for each paragraph, and no bracket read as markup."""
    return escape("\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")))


def _layers_as_runs(words: Sequence[str]) -> list[str]:
    """Spell `--layer-20 MODEL` and `--layer-20=MODEL` as `--run layer-20=MODEL`. Other words stay as they are."""
    spelled: list[str] = []
    rest = iter(words)
    for word in rest:
        option, equals, model = word.partition("=")
        layer = option.removeprefix("--")
        if not option.startswith("--layer-") or not layer.removeprefix("layer-").isdecimal():
            spelled.append(word)
            continue
        model = model if equals else next(rest, "")
        if not model or model.startswith("--"):
            raise typer.BadParameter(f"{option} needs a model: {option} FOLDER")
        spelled += ["--run", f"{layer}={model}"]
    return spelled


app = typer.Typer(
    cls=LazyVerbs,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    except BrokenPipeError:  # the program that reads the output has ended: `lensrl ... | head`
        sys.stderr.close()
        sys.exit(1)
    finally:
        gc.freeze()  # the interpreter's end would look for garbage in all that torch has made, for seconds
    sys.exit(code if isinstance(code, int) else 0)


def _line(error: LensrlError | typer.TyperException) -> str:
    """Return an error in one line, with the command to type next."""
    if isinstance(error, LensrlError):
        return " ".join(str(error).split())
    message = " ".join(error.format_message().split()).replace("Value error, ", "").removesuffix(".")
    given = sys.argv[1]
    if given in VERBS:
        return f"{message} (see: lensrl {given} --help)"
    known = "" if given.startswith("-") or "Did you mean" in message else f"; known: {', '.join(VERBS)}"
    return f"{message}{known} (see: lensrl --help)"


if __name__ == "__main__":
    main()
