"""lensrl: where in a transformer does RL post-training do its work?

    >>> import lensrl
    >>> study = lensrl.open_study("runs/tiny")
    >>> study.contributions()

Importing this package is fast: every public name is imported when it is first used, and torch when a function needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensrl.compare.activations import compare_activations, compare_layers
    from lensrl.compare.adapter import save_adapter
    from lensrl.compare.changed_overlap import changed_overlap
    from lensrl.compare.equal_distance import contributions_at_equal
    from lensrl.compare.export import LoadedModel, graft, load_model, save_pretrained
    from lensrl.compare.heads import compare_heads
    from lensrl.compare.hooks import Activations, activations, load_bridge
    from lensrl.compare.kl import kl_to_base
    from lensrl.compare.models import compare_model_activations, compare_models
    from lensrl.compare.patching.additivity import additivity_table
    from lensrl.compare.patching.control import random_grafts
    from lensrl.compare.patching.patch import patch
    from lensrl.compare.patching.wrong_items import wrong_item_patches
    from lensrl.compare.predictors import predictors
    from lensrl.compare.rivals import base_rivals
    from lensrl.compare.weights import along_training, compare_weights
    from lensrl.errors import LensrlError
    from lensrl.judge.agreement import StudyAgreement, agree
    from lensrl.judge.correlate import correlate_study
    from lensrl.judge.overlap import overlaps, teams
    from lensrl.judge.verdict import Verdict, verdict
    from lensrl.recipe import load_recipe
    from lensrl.recipe.imported import import_recipe
    from lensrl.show import plot
    from lensrl.show.page import write_report
    from lensrl.store.folder import runs
    from lensrl.store.run import Run, open_run
    from lensrl.store.study import Study, open_study
    from lensrl.store.table import read_contributions
    from lensrl.store.verify import verify
    from lensrl.train.study import run_study

__version__ = "0.2.0"

_HOMES = {  # public name -> the module that defines it, or the package that holds it as a module
    "Activations": "lensrl.compare.hooks",
    "LensrlError": "lensrl.errors",
    "LoadedModel": "lensrl.compare.export",
    "Run": "lensrl.store.run",
    "Study": "lensrl.store.study",
    "StudyAgreement": "lensrl.judge.agreement",
    "Verdict": "lensrl.judge.verdict",
    "activations": "lensrl.compare.hooks",
    "additivity_table": "lensrl.compare.patching.additivity",
    "agree": "lensrl.judge.agreement",
    "along_training": "lensrl.compare.weights",
    "base_rivals": "lensrl.compare.rivals",
    "changed_overlap": "lensrl.compare.changed_overlap",
    "compare_activations": "lensrl.compare.activations",
    "compare_heads": "lensrl.compare.heads",
    "compare_layers": "lensrl.compare.activations",
    "compare_model_activations": "lensrl.compare.models",
    "compare_models": "lensrl.compare.models",
    "compare_weights": "lensrl.compare.weights",
    "correlate_study": "lensrl.judge.correlate",
    "graft": "lensrl.compare.export",
    "import_recipe": "lensrl.recipe.imported",
    "contributions_at_equal": "lensrl.compare.equal_distance",
    "kl_to_base": "lensrl.compare.kl",
    "load_bridge": "lensrl.compare.hooks",
    "load_model": "lensrl.compare.export",
    "load_recipe": "lensrl.recipe",
    "open_run": "lensrl.store.run",
    "open_study": "lensrl.store.study",
    "overlaps": "lensrl.judge.overlap",
    "patch": "lensrl.compare.patching.patch",
    "plot": "lensrl.show",
    "predictors": "lensrl.compare.predictors",
    "random_grafts": "lensrl.compare.patching.control",
    "read_contributions": "lensrl.store.table",
    "run_study": "lensrl.train.study",
    "runs": "lensrl.store.folder",
    "save_adapter": "lensrl.compare.adapter",
    "save_pretrained": "lensrl.compare.export",
    "teams": "lensrl.judge.overlap",
    "verdict": "lensrl.judge.verdict",
    "verify": "lensrl.store.verify",
    "write_report": "lensrl.show.page",
    "wrong_item_patches": "lensrl.compare.patching.wrong_items",
}

__all__ = [
    "Activations",
    "LensrlError",
    "LoadedModel",
    "Run",
    "Study",
    "StudyAgreement",
    "Verdict",
    "activations",
    "additivity_table",
    "agree",
    "along_training",
    "base_rivals",
    "changed_overlap",
    "compare_activations",
    "compare_heads",
    "compare_layers",
    "compare_model_activations",
    "compare_models",
    "compare_weights",
    "contributions_at_equal",
    "correlate_study",
    "graft",
    "import_recipe",
    "kl_to_base",
    "load_bridge",
    "load_model",
    "load_recipe",
    "open_run",
    "open_study",
    "overlaps",
    "patch",
    "plot",
    "predictors",
    "random_grafts",
    "read_contributions",
    "run_study",
    "runs",
    "save_adapter",
    "save_pretrained",
    "teams",
    "verdict",
    "verify",
    "write_report",
    "wrong_item_patches",
]


def __getattr__(name: str) -> Any:
    if name == "plot":
        return import_module(f"{_HOMES[name]}.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lensrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
