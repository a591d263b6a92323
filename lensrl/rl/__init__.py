"""RL on all layers or on some of them, with TRL."""

from lensrl.rl.recorder import TrainingCurve
from lensrl.rl.snapshots import Snapshots
from lensrl.rl.trainer import Training, train

__all__ = ["Snapshots", "Training", "TrainingCurve", "train"]
