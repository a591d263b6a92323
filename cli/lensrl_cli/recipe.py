"""`lensrl recipe`: print a recipe with every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lensrl
from lensrl_cli.output import Json, named_path, plain, print_json


def recipe(
    path: Annotated[Path, typer.Argument(metavar="FILE", parser=named_path, help="A recipe, such as runs/tiny.toml.")],
    *,
    defaults: Annotated[bool, typer.Option("--defaults", help="Also say what each setting means, and why.")] = False,
    json: Json = False,
) -> None:
    """Print a recipe with all defaults filled in, as TOML that can be run.

    Example: lensrl recipe runs/tiny.toml --defaults
    """
    from lensrl.recipe.spell import spell_recipe

    found = lensrl.load_recipe(path)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(plain(spell_recipe(found, meanings=defaults)), nl=False)
