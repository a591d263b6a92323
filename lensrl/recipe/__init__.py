"""The recipe: everything that decides what a study measures, as validated data read from a TOML file.

Paths in a recipe are relative to the recipe's own folder. A study keeps its recipe, resolved, as `recipe.json`.
"""

from lensrl.recipe.read import load_recipe, read_kept_recipe
from lensrl.recipe.study import Evaluation, Gigpo, Layers, Recipe, Rl, Store
from lensrl.recipe.tasks import (
    ArithmeticTask,
    CodeTask,
    CorridorTask,
    Dataset,
    ExpressionTask,
    GymTask,
    MathTask,
    OwnTask,
    Source,
    Task,
    TextWorldTask,
)

__all__ = [
    "ArithmeticTask",
    "CodeTask",
    "CorridorTask",
    "Dataset",
    "Evaluation",
    "ExpressionTask",
    "Gigpo",
    "GymTask",
    "Layers",
    "MathTask",
    "OwnTask",
    "Recipe",
    "Rl",
    "Source",
    "Store",
    "Task",
    "TextWorldTask",
    "load_recipe",
    "read_kept_recipe",
]
