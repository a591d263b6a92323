"""The model: load it, find its blocks, sample from it, score it, hook it. `tiny/` holds the embedded models."""
