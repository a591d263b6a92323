"""Make a randomly initialised small Qwen3 for any text, to try a study where no checkpoint is at hand.

    python -m lensrl.models.tiny.random_model --text train.jsonl --out my-model

Writes a Hugging Face model folder: config, safetensors, and a byte-level BPE tokenizer. The tokenizer is learned from
the text, so it can encode every problem. The model knows nothing: a study of it tests the steps and gives no result.
The same text, seed and versions give the same folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from lensrl.errors import LensrlError

PAD, EOS = "<pad>", "<eos>"


def byte_level_tokenizer(text: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE with at most `vocabulary` tokens: 256 bytes, two special tokens, and merges.

    Raises LensrlError if the text cannot be read.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    try:
        tokenizer.train_from_iterator(text.read_text(encoding="utf-8").splitlines(), trainer)
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise LensrlError(f"text file {text} cannot be read: {cause}") from None
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left")


def random_qwen3(
    text: Path, out: Path, *, layers: int = 4, hidden: int = 64, vocabulary: int = 512, seed: int = 0
) -> None:
    """Write the model folder. Raises LensrlError if the text cannot be read."""
    tokenizer = byte_level_tokenizer(text, vocabulary)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=hidden // 4, max_position_embeddings=4096,
        tie_word_embeddings=True, pad_token_id=tokenizer.get_vocab()[PAD], eos_token_id=tokenizer.get_vocab()[EOS],
        bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Write the folder of a random model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="what the tokenizer is learned from: any UTF-8 file")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        random_qwen3(arguments.text, arguments.out, layers=arguments.layers, seed=arguments.seed)
    except LensrlError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
