"""What the sections of `tests.benchmarks.cuda` share: random models, a task, given completions, and clocks."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from lensrl.models.base import Base, pick_device
from lensrl.models.blocks import find_blocks
from lensrl.models.histories import Histories, Written
from lensrl.models.noise import Row
from lensrl.models.tiny.random_model import byte_level_tokenizer
from lensrl.recipe import Recipe
from lensrl.tasks import Item
from lensrl.train.sampling import Completions
from lensrl.train.trainer import Trainer

Report = Callable[..., None]
CUDA = torch.cuda.is_available()
GB = 1e9
SIZES = {"0.6B": (1024, 3072), "1.7B": (2048, 6144), "quick": (64, 128)}  # hidden and intermediate size of Qwen3


def bytes_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of 256 bytes and two special tokens. Tokens above these have an embedding and no text."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("bytes alone\n", encoding="utf-8")
        return byte_level_tokenizer(text, 258)


def random_base(shape: str) -> Base:
    """Make a base of a shape of Qwen3 in memory: random weights, rounded to bf16, in fp32 on the CPU."""
    hidden, intermediate = SIZES[shape]
    quick = shape == "quick"
    config = Qwen3Config(
        vocab_size=512 if quick else 151_936, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=4 if quick else 28, num_attention_heads=4 if quick else 16,
        num_key_value_heads=2 if quick else 8, head_dim=16 if quick else 128, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(pick_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.float().cpu().eval()
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    return Base(shape, model, bytes_tokenizer(), find_blocks(model))


def model_folder(shape: str | Base, scratch: Path) -> Path:
    """Write a base in bf16 as a Hugging Face folder, as vLLM and the verbs want it. A shape is made first."""
    base = random_base(shape) if isinstance(shape, str) else shape
    folder = scratch / "model"
    base.model.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    base.tokenizer.save_pretrained(folder)
    return folder


def plant_end(base: Base, probability: float) -> None:
    """Change the weights so that each token is the end, token 1, with about this probability. Lengths are geometric.

    All embeddings get the same entry 0, large enough to keep this entry of the final state nearly constant. The output
    matrix is the embedding: a larger entry of the end raises its logit, by the difference times the state's entry.
    At 2.0, other logits stay below 12, where bf16 has steps of 0.06.
    """
    model: Any = base.fresh(device=pick_device()).eval()
    weights: Any = base.model.get_input_embeddings().weight
    tokens = torch.randint(2, len(weights), (4, 64), generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.no_grad():
        for embedding in (weights, model.get_input_embeddings().weight):
            embedding[:, 0] = 2.0
        states = model.model(tokens.to(pick_device())).last_hidden_state[:, 8:]
        logits = model.get_output_embeddings()(states).float()
        gain = (logits.logsumexp(-1) - logits[..., 1]).mean() + np.log(probability / (1 - probability))
        weights[1, 0] = (2.0 + gain / states[..., 0].float().mean()).to(weights)


class Lengths:
    """A task whose reward is the rest of a completion's length, so that it differs within a group."""

    def items(self, split: str) -> list[Item]:
        return [Item(str(n), f"Question {n}: " + "x" * (n % 40) + " Answer:", str(n), "lengths") for n in range(64)]

    def reward(self, item: Item, completion: str) -> float:
        return (len(completion) % 7) / 6

    score = reward


class Given:
    """Returns random tokens in place of sampling: a step's other phases, without the wait."""

    vocabulary = 258

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        pass

    def refresh(self) -> None:
        pass

    def start(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Histories:
        raise NotImplementedError

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        tokens = [
            np.random.default_rng(row).integers(2, self.vocabulary, int(settings.max_new_tokens or 0)).tolist()
            for row in rows
        ]
        return [Written(row, ended=False, logprobs=[]) for row in tokens]


def recipe(*, generation: str = "pieces", **rl: Any) -> Recipe:
    """Return a recipe with these settings of RL. Its model and task are given in code."""
    return Recipe.model_validate({"model": "tiny:qwen3", "task": "arithmetic", "generation": generation, "rl": rl})


def synchronised() -> float:
    """Wait for the GPU, and return the time in seconds."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def phases() -> Iterator[dict[str, float]]:
    """Measure the seconds of the phases of training: sampling, log-probabilities, backward and optimiser."""
    spent: dict[str, float] = defaultdict(float)
    places = [
        (Completions, "_rollout", "sampling"),
        (Trainer, "_compute_loss", "log-probabilities"),
        (Accelerator, "backward", "backward"),
        (torch.optim.AdamW, "step", "optimiser"),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, phase in places:
        setattr(owner, name, _timed(getattr(owner, name), spent, phase))
    try:
        yield spent
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


def _timed(function: Any, spent: dict[str, float], phase: str) -> Any:
    def timed(*given: Any, **named: Any) -> Any:
        began = synchronised()
        try:
            return function(*given, **named)
        finally:
            spent[phase] += synchronised() - began

    return timed
