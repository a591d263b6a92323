"""RL on all layers or on some of them, with TRL."""
