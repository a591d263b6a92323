"""Pre-train an embedded base model on the small worlds of `lensrl.models.tiny.text`.

    python -m lensrl.models.tiny.pretrain qwen3 --out lensrl/models/tiny/qwen3

Writes a Hugging Face model folder (config, safetensors, character tokenizer) and `pretraining.json`: the settings, the
loss every 100 steps, and the sampled accuracy in each world before any RL. It takes about 20 minutes on two cores.

The models are `qwen3` and `qwen2.5` with 8 layers, and `qwen3-deep`, which is narrower and has 24. A step of the deep
model costs more, so it sees fewer documents a step. Its loss is that of the answers alone: the digits of a prompt are
random, and their gradient is noise.

The run is seeded. Another machine or another torch build may still differ in the last bits, so the shipped weights are
the reference.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from lensrl.models.tiny.text import QUESTIONS, RIGHT, WORLDS

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.1
ANSWERS_AFTER = {"addition": "=", "expression": " x:"}  # end of a prompt; a corridor has no prompt


@dataclass(frozen=True)
class Size:
    """The size of a model, and the length of its pre-training."""

    layers: int
    width: int  # of the residual stream; the MLP is three times as wide, and a head a quarter
    steps: int
    documents: dict[str, int]  # per step, of each world
    peak_learning_rate: float
    answers_alone: bool = False  # whether prompts, of additions and expressions, carry no loss


SMALL = Size(8, 96, 3000, {"addition": 192, "expression": 48, "corridor": 6}, 3e-3)  # 0.9 M parameters
DEEP = Size(24, 64, 1200, {"addition": 64, "expression": 16, "corridor": 1}, 2e-3, answers_alone=True)  # 1.2 M
SIZES = {"qwen3": SMALL, "qwen2.5": SMALL, "qwen3-deep": DEEP}


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per character: 99 tokens.

    They are padding, end of sequence, unknown, newline, and printable ASCII.
    """
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, padding_side="left"
    )


def configuration(name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Return the configuration of an embedded model.

    Qwen3 ties its embeddings here and Qwen2.5 does not, as in the families' small and large models. Qwen2.5 (in
    transformers: Qwen2) has biases on queries, keys and values; Qwen3 has norms on queries and keys instead.
    """
    size = SIZES[name]
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "intermediate_size": 3 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.get_vocab()[PAD],
        "eos_token_id": tokenizer.get_vocab()[EOS],
        "bos_token_id": None,
    }
    if name == "qwen2.5":
        return Qwen2Config(**shape, tie_word_embeddings=False)
    return Qwen3Config(**shape, head_dim=size.width // 4, tie_word_embeddings=True)


def batch(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], after: str | None = None
) -> dict[str, torch.Tensor]:
    """Tokenise documents with their end-of-sequence tokens, right-padded.

    Padding carries no loss, nor does anything up to the last `after`, the end of a document's prompt.
    """
    encoded = tokenizer([text + EOS for text in documents], padding=True, padding_side="right", return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    if after is not None:
        for row, text in zip(labels, documents, strict=True):
            row[: text.rindex(after) + len(after)] = -100  # a token is a character
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero."""
    if step < WARM_UP_STEPS:
        return peak * (step + 1) / WARM_UP_STEPS
    return peak * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / (steps - WARM_UP_STEPS)))


@torch.no_grad()
def sampled_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> dict[str, float]:
    """Return the share of right answers to 1,000 questions of each world, with one sample each at temperature 1."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    accuracy = {}
    for world, question in QUESTIONS.items():
        prompts, checks = zip(*(question(rng) for _ in range(1000)), strict=True)
        inputs = tokenizer(list(prompts), padding=True, return_tensors="pt")
        output = model.generate(  # pyright: ignore[reportCallIssue]
            **inputs, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=10
        )
        answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        accuracy[world] = sum(check(answer) for check, answer in zip(checks, answers, strict=True)) / len(checks)
    return accuracy


def main() -> None:
    """Pre-train a model and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SIZES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="default: 3000 of the small models, 1200 of the deep one")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    name, seed, size = arguments.model, arguments.seed, SIZES[arguments.model]
    steps = arguments.steps or size.steps

    # Model and optimiser. Only matrices decay, not norms and biases.
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = character_tokenizer()
    model = AutoModelForCausalLM.from_config(configuration(name, tokenizer), dtype=torch.float32)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=size.peak_learning_rate,
        betas=(0.9, 0.98),
    )
    # Train. Each step adds the gradients of all worlds, one batch of documents per world.
    log: list[dict[str, float]] = []
    start = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, size.peak_learning_rate)
        losses = {}
        for world, document in WORLDS.items():
            documents = [document(rng) for _ in range(size.documents[world])]
            after = ANSWERS_AFTER.get(world) if size.answers_alone else None
            loss = model(**batch(tokenizer, documents, after)).loss
            loss.backward()
            losses[world] = loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            log.append({"step": step + 1, **{world: round(value, 4) for world, value in losses.items()}})
            print(json.dumps(log[-1] | {"seconds": round(time.perf_counter() - start)}), flush=True)

    # Save the model folder, and a record of how it was made.
    model.save_pretrained(arguments.out)
    tokenizer.backend_tokenizer.no_padding()  # the padding of the last batch must not be saved
    tokenizer.save_pretrained(arguments.out)
    model.eval()
    record = {
        "command": f"python -m lensrl.models.tiny.pretrain {name} --steps {steps} --seed {seed}",
        "documents_per_step": size.documents,
        "share_right": RIGHT,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sampled_accuracy": sampled_accuracy(model, tokenizer, seed=seed),
        "log": log,
    }
    (arguments.out / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
