"""Putting a layer of one model into another: its weights (grafts), or the outputs that it computes (activations)."""
