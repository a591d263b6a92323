"""Patching: put a layer of one model into another, by its weights (a graft) or by its outputs (activations)."""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]  # (name of the step, done, total)
