"""Make pairs of random models in the shapes of Qwen3-0.6B and Qwen3-1.7B: a base, and the same after a planted update.

    python -m tests.benchmarks.shapes 0.6B FOLDER

Writes FOLDER/qwen3-0.6B/base and .../trained: Hugging Face folders in bfloat16, with a byte-level tokenizer. The update
is noise of 1e-4 on every entry and a change of rank 2 in every matrix, then rounding to bfloat16. Weights are written
in blocks of rows, so that a few MB are in memory. A pair that is there is used again. Nothing here can be learned from:
the models know nothing.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from lensrl.models.tiny.random_model import byte_level_tokenizer

HIDDEN = {"0.6B": (1024, 3072), "1.7B": (2048, 6144)}  # hidden and intermediate size
LAYERS, HEADS, KEYS, HEAD, VOCABULARY = 28, 16, 8, 128, 151_936
SPREAD, NOISE, LOW_RANK, RANK = 0.02, 1e-4, 2e-5, 2  # standard deviations of weights and update; rank of the update
BLOCK = 2**20  # entries in memory at once, about


class Folders(NamedTuple):
    """The two model folders of a pair."""

    base: Path
    trained: Path


def qwen3_config(shape: str, *, layers: int = LAYERS, vocabulary: int = VOCABULARY) -> Qwen3Config:
    """Return the configuration of a shape, with tied embeddings."""
    hidden, intermediate = HIDDEN[shape]
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=KEYS, head_dim=HEAD, max_position_embeddings=40_960,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0, dtype="bfloat16",
    )  # fmt: skip


def make_pair(shape: str, folder: Path, *, layers: int = LAYERS, vocabulary: int = VOCABULARY) -> Folders:
    """Write a pair below `folder`, or find it there."""
    config = qwen3_config(shape, layers=layers, vocabulary=vocabulary)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    root = folder / f"qwen3-{shape}" if layers == LAYERS else folder / f"qwen3-{shape}-{layers}-layers"
    pair = Folders(root / "base", root / "trained")
    for path in pair:
        if (path / "model.safetensors").is_file():
            continue
        path.mkdir(parents=True, exist_ok=True)
        config.architectures = ["Qwen3ForCausalLM"]
        config.save_pretrained(path)
        _save_tokenizer(path)
        _write_weights(path / "model.safetensors", shapes, trained=path == pair.trained)
    return pair


def _save_tokenizer(path: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write("bytes alone\n")
        text.flush()
        byte_level_tokenizer(Path(text.name), 258).save_pretrained(path)


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]], *, trained: bool) -> None:
    """Write a safetensors file in blocks of rows: its header, then the bytes of the tensors in order."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, shape in enumerate(shapes.values()):
            for block in _blocks(number, shape, trained=trained):
                file.write(block.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    partial.rename(path)


def _blocks(number: int, shape: tuple[int, ...], *, trained: bool) -> Iterator[torch.Tensor]:
    """Yield the rows of a weight: the same weights for both models, and the update on top where `trained`."""
    weights, update = (np.random.default_rng([number, kind]) for kind in (0, 1))
    if len(shape) == 1:  # the gain of a norm
        yield torch.from_numpy(1 + NOISE * (update.normal(size=shape) if trained else np.zeros(shape))).float()
        return
    rows, columns = shape
    right = update.normal(size=(RANK, columns)).astype(np.float32)
    for start in range(0, rows, step := max(1, BLOCK // columns)):
        size = min(step, rows - start), columns
        # Where models are trained from bfloat16, the base is bfloat16 too: the update starts from the rounded weights.
        block = torch.from_numpy(SPREAD * weights.standard_normal(size, np.float32)).to(torch.bfloat16).float()
        if trained:
            left = update.normal(size=(size[0], RANK)).astype(np.float32)
            block += torch.from_numpy(LOW_RANK * left @ right + NOISE * update.standard_normal(size, np.float32))
        yield block


def main() -> None:
    """Write the pair of a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[*HIDDEN])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parser.parse_args()
    print(*make_pair(arguments.shape, arguments.folder, layers=arguments.layers), sep="\n")


if __name__ == "__main__":
    main()
