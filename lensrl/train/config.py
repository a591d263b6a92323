"""TRL's settings for a recipe: the published algorithm, and nothing left to TRL's defaults, which are those of DAPO."""

from __future__ import annotations

from trl.trainer.grpo_config import GRPOConfig

from lensrl.models.base import Base
from lensrl.models.precision import inexact
from lensrl.recipe import Recipe
from lensrl.train import ranks
from lensrl.train.algorithms import ALGORITHMS


def frozen_in_bf16(base: Base, recipe: Recipe, device: str) -> bool:
    """Return whether frozen matrices are stored in bf16: where the recipe says so, or a GPU trains a bf16 base."""
    asked = recipe.rl.frozen_dtype
    return asked == "bfloat16" if asked is not None else device == "cuda" and inexact(base.weights) is None


def samples_with_copy(recipe: Recipe, device: str) -> bool:
    """Return whether training samples with a copy of the model in bf16: where the recipe says so, or on a GPU.

    Weights in shards have no copy: each device would hold a whole one.
    """
    if recipe.generation != "pieces" or recipe.engine.shard or ALGORITHMS[recipe.rl.algorithm].on_references:
        return False
    asked = recipe.rl.sampler_dtype
    return asked == "bfloat16" if asked is not None else device == "cuda"


def compute_dtype(recipe: Recipe, device: str) -> str:
    """Return the type of training, and of sampling without a copy of the model.

    This is `bfloat16` on a GPU, and where frozen weights are in it.
    """
    return "bfloat16" if device == "cuda" or recipe.rl.frozen_dtype == "bfloat16" else "float32"


def grpo_config(recipe: Recipe, *, seed: int, device: str, output_dir: str, max_grad_norm: float) -> GRPOConfig:
    """Return TRL's settings for a recipe: the published algorithm, and nothing left to TRL's defaults.

    A step of TRL is an update here. TRL saves and reports nothing. Several ranks have equal shares of an update.
    """
    rl = recipe.rl
    updates = rl.updates_per_rollout
    share = rl.completions_per_update // ranks.world()
    micro_batch = rl.micro_batch or share
    micro_batches = share // micro_batch  # of an update
    algorithm = ALGORITHMS[rl.algorithm]
    return GRPOConfig(
        output_dir=output_dir,
        loss_type=algorithm.loss_type,
        scale_rewards=algorithm.scale_rewards,
        importance_sampling_level=algorithm.ratio,
        beta=rl.kl_beta,
        use_bias_correction_kl=False,
        epsilon=rl.clip,
        epsilon_high=rl.clip_high,
        num_iterations=1,
        max_steps=-1 if rl.steps is None else rl.steps * updates,
        num_train_epochs=rl.epochs or 1,  # read where max_steps is -1
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches * updates,
        num_generations=rl.completions_per_prompt,
        max_completion_length=rl.max_completion_tokens,
        mask_truncated_completions=rl.mask_truncated,
        temperature=rl.temperature,
        top_p=rl.top_p,
        top_k=rl.top_k,
        # Broken weights must reach the recorder as a gradient. Otherwise the sampler fails, on CUDA beyond recovery.
        generation_kwargs={"remove_invalid_values": True},
        learning_rate=rl.learning_rate,
        lr_scheduler_type=rl.lr_scheduler_type,
        warmup_steps=rl.warmup_steps if rl.warmup_steps < 1 else round(rl.warmup_steps) * updates,
        weight_decay=rl.weight_decay,
        max_grad_norm=max_grad_norm,
        optim=rl.optim,
        gradient_checkpointing=rl.gradient_checkpointing,
        bf16=compute_dtype(recipe, device) == "bfloat16",
        use_cpu=device == "cpu",
        seed=seed,
        data_seed=seed,
        shuffle_dataset=True,
        ddp_find_unused_parameters=False,  # every trained parameter is used; torch raises where one is not
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # the recorder must see a NaN, not an average without it
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        disable_dropout=True,  # a random forward pass would not be the policy that was sampled
        log_level="error",
    )
