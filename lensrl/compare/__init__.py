"""Run against run: weights, activations, patches, and whatever might explain the layer contribution."""
