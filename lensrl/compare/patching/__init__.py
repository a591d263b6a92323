"""Putting a layer of one model into another: its weights (grafts), or the outputs that it computes (activations)."""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]  # what, done, of how many
