"""The recipe: every setting that decides what a study measures, as validated data read from a TOML file.

Paths in a recipe are relative to the recipe's folder. A study keeps its recipe, with absolute paths, as `recipe.json`.
`settings.py` and `task_tables.py` list every setting; `read.py` reads the file; `runs.py` lists the runs that a recipe
asks for. This package loads no model and no task.
"""

from lensrl.recipe.checkpoints import Checkpoint, CheckpointRun, ModelPlace
from lensrl.recipe.evaluation import Also, BenchmarkEvaluation, Evaluation
from lensrl.recipe.read import load_recipe, parse_kept_recipe, parse_recipe, read_kept_recipe
from lensrl.recipe.rl import Gigpo, Rl
from lensrl.recipe.sets import Chosen, Layers, LayerSet, Lora, Trained
from lensrl.recipe.settings import Prompt, Recipe, Store
from lensrl.recipe.task_tables import (
    ArithmeticTask,
    CodeTask,
    Columns,
    CorridorTask,
    Dataset,
    ExpressionTask,
    GymTask,
    HarnessTask,
    MathTask,
    OwnTask,
    Samples,
    Source,
    Task,
    TextsTask,
    TextWorldTask,
)

__all__ = [
    "Also",
    "ArithmeticTask",
    "BenchmarkEvaluation",
    "Checkpoint",
    "CheckpointRun",
    "Chosen",
    "CodeTask",
    "Columns",
    "CorridorTask",
    "Dataset",
    "Evaluation",
    "ExpressionTask",
    "Gigpo",
    "GymTask",
    "HarnessTask",
    "LayerSet",
    "Layers",
    "Lora",
    "MathTask",
    "ModelPlace",
    "OwnTask",
    "Prompt",
    "Recipe",
    "Rl",
    "Samples",
    "Source",
    "Store",
    "Task",
    "TextWorldTask",
    "TextsTask",
    "Trained",
    "load_recipe",
    "parse_kept_recipe",
    "parse_recipe",
    "read_kept_recipe",
]
