"""Sampling, forward passes and steps of training, each beside the plain library in the same run: `make bench`.

    python -m tests.benchmarks.models [FOLDER] [--rounds 3] [--only sampling]

FOLDER keeps the random model of Qwen3-0.6B's shape (`tests.benchmarks.shapes`). A ratio is of processor time: other
processes on the machine change it less than the time on the wall.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from lensrl.models import histories
from lensrl.models.base import Base, load_base
from lensrl.models.blocks import find_blocks, train_only
from lensrl.models.bridge import capture
from lensrl.models.generation import sampling_settings, token_ids
from lensrl.models.references import reference_logprobs, references
from lensrl.models.sampler import Pieces
from lensrl.recipe import Recipe
from lensrl.tasks import Item
from lensrl.train.config import grpo_config
from lensrl.train.training import train
from tests.benchmarks.cuda_models import Lengths, bytes_tokenizer, recipe
from tests.benchmarks.shapes import make_pair, qwen3_config
from tests.benchmarks.store import verdict

Row = tuple[str, str, str, str, str]
PROMPTS, LONGEST, MEAN = 128, 256, 64  # sampled prompts; the limit and about the mean of their completions' tokens
ITEMS, TOKENS = 8, 300  # of the forward passes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["sampling", "groups", "steps-tiny", "steps", "passes", "memory"])
    arguments = parser.parse_args()
    names = ("torch", "transformers", "trl", "transformer-lens", "numpy")
    print(f"{os.cpu_count()} cores; " + ", ".join(f"{name} {version(name)}" for name in names))
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as scratch:
        folder = arguments.folder or Path(scratch)
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "sampling": lambda: sampling_rows(arguments.rounds),
            "groups": lambda: group_rows(arguments.rounds),
            "steps-tiny": lambda: step_rows(load_base("tiny:qwen3"), "tiny", steps=12),
            "steps": lambda: step_rows(load_base(str(make_pair("0.6B", folder).base)), "0.6B shape", steps=2),
            "passes": lambda: pass_rows(load_base(str(make_pair("0.6B", folder).base)), arguments.rounds),
            "memory": lambda: memory_rows(make_pair("0.6B", folder).base),
        }
        table = Table("what", "ours", "peer", "ratio", "wanted", box=None, pad_edge=False, header_style="dim")
        try:
            for name, rows in parts.items():
                if arguments.only in (None, name):
                    for row in rows():
                        table.add_row(*row)
        finally:
            Console(width=160).print(table)


def narrow_base() -> Base:
    """Return a random narrow model with 28 layers."""
    config = qwen3_config("0.6B", vocabulary=512)
    config.hidden_size, config.intermediate_size, config.head_dim = 128, 384, 16
    config.num_attention_heads, config.num_key_value_heads = 8, 4
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return Base("narrow", model, bytes_tokenizer(), find_blocks(model))


def group_rows(rounds: int) -> Iterator[Row]:
    """Groups of completions of one prompt. The peer is the same sampler with each row reading its own prompt."""
    base = narrow_base()
    long, tokens, groups, size = 256, 32, 4, 8
    never = base.model.config.get_text_config().vocab_size
    settings = sampling_settings([never], base.tokenizer, max_tokens=tokens, temperature=1.0)
    draw = np.random.default_rng(0)
    prompts = [prompt for n in range(groups) for prompt in [draw.integers(3, 500, long - n).tolist()] * size]
    rows = [(0, n) for n in range(groups * size)]
    times, same = [], True
    kept = histories.LONG
    for _ in range(rounds):
        ours, found = clocked(lambda: Pieces(base.model, base.tokenizer).generate(prompts, settings, rows))
        histories.LONG = long
        try:
            peer, other = clocked(lambda: Pieces(base.model, base.tokenizer).generate(prompts, settings, rows))
        finally:
            histories.LONG = kept
        times.append((ours, peer))
        same = same and [one.tokens for one in found] == [one.tokens for one in other]
    one, other, ratio = medians(times)
    yield (
        f"{size} completions of {tokens} tokens of each of {groups} prompts of {long} tokens, 28 layers, "
        f"{'equal' if same else 'DIFFERENT'} completions; peer: each row reads its prompt",
        f"{one:.1f} s", f"{other:.1f} s", f"{ratio:.1f}", verdict(ratio >= 1.5, "≥ 1.5"),
    )  # fmt: skip


def sampling_rows(rounds: int) -> Iterator[Row]:
    """Prompts whose completions end at very different lengths, on a narrow model with 28 layers."""
    base = narrow_base()
    model: Any = base.model
    end_with(model, 1 / MEAN)
    settings = sampling_settings([1], base.tokenizer, max_tokens=LONGEST, temperature=1.0)
    prompts = [token_ids(base.tokenizer, item.prompt) for item in Lengths().items("train")]
    asked, rows = [prompts[n % len(prompts)] for n in range(PROMPTS)], [(0, n) for n in range(PROMPTS)]
    width = max(map(len, asked))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in asked])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in asked])
    times, lengths = [], [np.empty(0)] * 2
    for number in range(rounds):
        torch.manual_seed(number)
        ours, found = clocked(lambda: Pieces(model, base.tokenizer).generate(asked, settings, rows))
        peer, whole = clocked(lambda: model.generate(input_ids=ids, attention_mask=mask, generation_config=settings))
        written = whole.sequences[:, width:]
        ended = (written == 1).int().argmax(1) + 1
        lengths = [
            np.array([len(row.tokens) for row in found]),
            torch.where((written == 1).any(1), ended, written.shape[1]).numpy(),
        ]
        # Per token of the longest row: the rows end by chance, and the longest one sets how long both take.
        times.append((ours / lengths[0].max(), peer / lengths[1].max()))
    one, other, ratio = medians(times)
    means = " and ".join(f"{a.mean():.0f} (longest {a.max()})" for a in lengths)
    yield (
        f"sampling {PROMPTS} prompts, 28 layers, {means} tokens on average, a token of the longest row; peer: generate",
        f"{1e3 * one:.1f} ms", f"{1e3 * other:.1f} ms", f"{ratio:.1f}", verdict(ratio >= 2.5, "≥ 2.5"),
    )  # fmt: skip


def end_with(model: Any, probability: float) -> None:
    """Make the model end at every token with this probability: lengths are then geometric."""

    def biased(_module: Any, _given: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., 1] = logits[..., 2:].logsumexp(-1) + np.log(probability / (1 - probability))
        return logits

    model.get_output_embeddings().register_forward_hook(biased)


def pass_rows(base: Base, rounds: int) -> Iterator[Row]:
    """Log-probabilities and activations of texts, beside the model's own forward passes on the same tokens."""
    rng = np.random.default_rng(0)
    half = TOKENS // 2
    texts = ["".join(map(chr, rng.integers(97, 123, 2 * half - 1))) for _ in range(ITEMS)]
    items = [Item(str(n), text[:half], text[half:], "texts") for n, text in enumerate(texts)]
    teacher, model = references(base.prompts, items), base.model
    kept = teacher.answer.any(0).nonzero().squeeze(-1)

    @torch.no_grad()
    def logits() -> None:
        model(input_ids=teacher.ids, attention_mask=teacher.mask, use_cache=False, logits_to_keep=kept)

    @torch.no_grad()
    def hidden() -> None:
        # Its attention is the bridge's: TransformerLens computes attention eagerly.
        model(input_ids=teacher.ids, attention_mask=teacher.mask, output_hidden_states=True, use_cache=False)

    def ours() -> None:
        reference_logprobs(model, base.prompts, items, batch=ITEMS)

    yield pass_row("log p", ours, logits, rounds)
    eager = base.fresh()
    eager.set_attn_implementation("eager")
    model = eager  # what `hidden` calls
    yield pass_row(
        "activations at three sites; peer with eager attention, as TransformerLens",
        lambda: capture(base.fresh(), base.prompts, items, base.blocks.n_layers), hidden, rounds,
    )  # fmt: skip


def pass_row(what: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> Row:
    """One row of the passes."""
    one, other, ratio = medians([(clocked(ours)[0], clocked(peer)[0]) for _ in range(rounds)])
    name = f"{what} of {ITEMS} items of {TOKENS} tokens, 0.6B shape; peer: bare forward pass"
    return name, f"{one:.1f} s", f"{other:.1f} s", f"{1 / ratio:.2f}", verdict(1 / ratio <= 1.15, "≤ 1.15")


def step_rows(base: Base, name: str, *, steps: int) -> Iterator[Row]:
    """A step of a single layer over a step of full RL, beside the same ratio of a bare GRPOTrainer."""
    asked = recipe(steps=steps, prompts_per_step=2, completions_per_prompt=4, max_completion_tokens=8, micro_batch=4)
    last = base.blocks.n_layers - 1
    full = ours_step(base, asked, None), bare_step(base, asked, None)
    for layer in (0, last // 2, last):
        one, other = (
            step(base, asked, [layer]) / whole for step, whole in zip((ours_step, bare_step), full, strict=True)
        )
        yield (
            f"a step of layer {layer} over one of full RL ({full[0]:.2f} s; peer {full[1]:.2f} s), {name}; peer: TRL",
            f"{one:.2f}", f"{other:.2f}", f"{one / other:.2f}", verdict(one / other <= 1.05, "≤ 1.05"),
        )  # fmt: skip


def memory_rows(folder: Path) -> Iterator[Row]:
    """The peak memory of a process that takes one step, beside the bytes that it must hold at once.

    These are the libraries, the base in fp32, the frozen weights, and 16 bytes for each trained weight: itself, its
    gradient, and two moments.
    """
    kinds: list[tuple[list[int] | None, str]] = [(None, "float32"), ([13], "float32"), ([13], "bfloat16")]
    for layers, frozen in kinds:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            libraries, peak, weights, trained = pool.submit(memory_of_step, folder, layers, frozen).result()
        must = libraries + 4 * weights + (2 if frozen == "bfloat16" else 4) * (weights - trained) + 16 * trained
        what = "full RL" if layers is None else f"layer 13, frozen in {frozen}"
        yield (
            f"peak memory, a step of {what}, 0.6B shape, peer: to hold, {libraries / 1e9:.2f} GB of it libraries",
            f"{peak / 1e9:.2f} GB", f"{must / 1e9:.2f} GB", f"{peak / must:.2f}", verdict(peak / must <= 1.3, "≤ 1.3"),
        )  # fmt: skip


def memory_of_step(folder: Path, layers: list[int] | None, frozen: str) -> tuple[int, int, int, int]:
    """Return the peak memory before and after a step in this process, and the number of all and of trained weights."""
    libraries, base = peak_memory(), load_base(str(folder))
    asked = recipe(steps=1, prompts_per_step=2, completions_per_prompt=4, max_completion_tokens=8, micro_batch=4,
                   frozen_dtype=frozen if layers else None)  # fmt: skip
    done = train(base, Lengths(), asked, layers=layers, seed=0)
    every, trained = (sum(weight.numel() for weight in weights.values()) for weights in (base.weights, done.weights))
    return libraries, peak_memory(), every, trained


def peak_memory() -> int:
    """The largest memory that this process has held, in bytes. `getrusage` would begin with that of its parent."""
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return 1024 * int(found)


def ours_step(base: Base, asked: Recipe, layers: list[int] | None) -> float:
    """The processor seconds of a step here, without the first."""
    marks: list[float] = []
    train(base, Lengths(), asked, layers=layers, seed=0, on_step=lambda _: marks.append(time.process_time()))
    return shortest(marks)


def bare_step(base: Base, asked: Recipe, layers: list[int] | None) -> float:
    """The same of TRL's trainer with the same settings, whose user has frozen all else."""
    model, marks, task = base.fresh(), [], Lengths()
    train_only(model, base.blocks, layers)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.process_time())

    with tempfile.TemporaryDirectory() as scratch:
        GRPOTrainer(
            model=model, processing_class=base.tokenizer, callbacks=[Clock()],
            reward_funcs=lambda completions, **_: [task.reward(Item("", "", "", ""), text) for text in completions],
            args=grpo_config(asked, seed=0, device="cpu", output_dir=scratch, max_grad_norm=1.0),
            train_dataset=Dataset.from_list([{"prompt": item.prompt} for item in task.items("train")]),
        ).train()  # fmt: skip
    return shortest(marks)


def shortest(marks: list[float]) -> float:
    """The shortest time between two ends of steps: of a step that nothing else disturbed."""
    return float(np.diff(marks).min())


def clocked(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of an action, and its result."""
    began = time.process_time()
    found = action()
    return time.process_time() - began, found


def medians(times: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the medians of both, and of the second over the first."""
    one, other = (statistics.median(column) for column in zip(*times, strict=True))
    return one, other, statistics.median(b / a for a, b in times)


if __name__ == "__main__":
    main()
