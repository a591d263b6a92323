"""TRL's trainer with a beginning in the middle of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from trl.trainer.grpo_trainer import GRPOTrainer

from lensrl.train.resume import Checkpoint


class ResumableTrainer(GRPOTrainer):
    """A GRPOTrainer that goes on from a checkpoint of lensrl.

    Trainer has the order of a resumption right: weights, optimizer, the batches of the epoch so far, and the random
    states after those. It reads pickles and files of its own, so every reading is replaced here. Trainer's own record
    of the step is written for it, into its temporary folder.
    """

    _checkpoint: Checkpoint | None = None

    def go_on(self, checkpoint: Checkpoint, updates: int) -> None:
        """Train from a checkpoint to the end. `updates` is the number of updates in a step."""
        self._checkpoint = checkpoint
        state = TrainerState(
            global_step=checkpoint.step * updates,
            logging_steps=int(self.args.logging_steps),
            train_batch_size=self.args.per_device_train_batch_size,
        )
        state.save_to_json(str(Path(str(self.args.output_dir)) / TRAINER_STATE_NAME))
        self.train(resume_from_checkpoint=self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self._checkpoint is not None
        self._checkpoint.load_weights(self.accelerator.unwrap_model(self.model))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._checkpoint is not None:
            self._checkpoint.load_optimizer(self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._checkpoint is not None:
            self._checkpoint.load_random()

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        """Return TRL's sampler in the epoch of the checkpoint.

        An epoch's order is the next permutation of one generator. TRL begins with a new generator, whose next
        permutation is that of the first epoch.
        """
        sampler: Any = super()._get_train_sampler(dataset)
        if self._checkpoint is not None:
            steps = len(sampler.data_source) // sampler.batch_size  # of an epoch
            for _ in range(self._checkpoint.step // steps):
                next(iter(sampler))  # draws the permutation of an epoch
        return sampler
