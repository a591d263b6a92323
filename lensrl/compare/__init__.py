"""Compare runs: weights, activations, patches, and the predictors of the layer contribution."""
