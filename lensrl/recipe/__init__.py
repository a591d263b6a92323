"""The recipe: everything that decides what a study measures, as validated data read from a TOML file.

Paths in a recipe are relative to the recipe's own folder. A study keeps its recipe, resolved, as `recipe.json`.
"""

from lensrl.recipe.read import load_recipe, read_kept_recipe
from lensrl.recipe.sets import Chosen, Layers, LayerSet, Trained
from lensrl.recipe.settings import Evaluation, Gigpo, Recipe, Rl, Store
from lensrl.recipe.task_tables import (
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
    "Chosen",
    "CodeTask",
    "CorridorTask",
    "Dataset",
    "Evaluation",
    "ExpressionTask",
    "Gigpo",
    "GymTask",
    "LayerSet",
    "Layers",
    "MathTask",
    "OwnTask",
    "Recipe",
    "Rl",
    "Source",
    "Store",
    "Task",
    "TextWorldTask",
    "Trained",
    "load_recipe",
    "read_kept_recipe",
]
