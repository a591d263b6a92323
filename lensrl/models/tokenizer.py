"""Load a tokenizer, and fit it to its model: every id has an embedding, and no prompt ends in an end of sequence."""

from __future__ import annotations

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from lensrl.errors import LensrlError

# Tokens that stand for an image or a sound. The tokenizer of Gemma 3 has one more token than its text models embed.
_NOT_TEXT = {"image_token", "audio_token", "video_token"}
_SAMPLES = ("0", "a", "\n", "x")  # a vocabulary of single characters may lack some of them


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, from its tokenizer.json if the folder names no special class.

    AutoTokenizer follows the model's architecture instead for some models. A Qwen2 model gets the splitting rules of
    the published Qwen2, which silently drop text for which another vocabulary has no token.
    """
    declared = get_tokenizer_config(source, trust_remote_code=False).get("tokenizer_class")
    general = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if general else AutoTokenizer).from_pretrained(source, trust_remote_code=False)


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of tokens that a model embeds."""
    rows = model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportIndexIssue]
    assert isinstance(rows, int)
    return rows


def text_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the id of every token that a text can hold."""
    text = {**tokenizer.get_vocab()}
    for kind in _NOT_TEXT & tokenizer.special_tokens_map.keys():
        text.pop(str(tokenizer.special_tokens_map[kind]), None)
    return text


def check_ids(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise LensrlError in one line for a token without an embedding, and for an end of sequence outside the model.

    The embedding may have more rows than the tokenizer has tokens: many models pad their vocabulary.
    """
    rows = embedding_rows(model)
    # The tokens that lensrl itself writes into texts.
    for kind, token in (("eos", tokenizer.eos_token), ("pad", tokenizer.pad_token)):
        number = tokenizer.convert_tokens_to_ids(str(token))
        if not (isinstance(number, int) and 0 <= number < rows):
            raise LensrlError(
                f"model {name!r}: the {kind} token {token!r} of its tokenizer has id {number}, outside the embedding "
                f"of {rows} rows; set {kind}_token in its tokenizer_config.json to a token that the model knows"
            )
    # Every token that a text can hold.
    text = text_tokens(tokenizer)
    last = max(text, key=text.__getitem__)
    if text[last] >= rows:
        raise LensrlError(
            f"model {name!r}: its tokenizer is larger than its embedding (token {last!r} has id {text[last]}, the "
            f"embedding has {rows} rows); give the tokenizer that the model was trained with, or resize the model "
            f"with model.resize_token_embeddings({text[last] + 1}) and train the new rows"
        )
    # The ids at which the model itself says that a text ends.
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = declared if isinstance(declared, list) else [] if declared is None else [declared]
    outside = next((token for token in ends if not 0 <= token < rows), None)
    if outside is not None:
        raise LensrlError(
            f"model {name!r}: eos_token_id {outside} in its generation_config.json is outside the embedding of {rows} "
            f"rows; set it to the id of a token"
        )


def drop_final_end(name: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Make a tokenizer that appends the end of sequence to every text stop doing so. Returns whether it did.

    A prompt must not end in an end of sequence: the model would have to answer after its own end. The tokens that the
    tokenizer puts before a text stay. TRL and TransformerLens tokenise with the same object.

    Raises LensrlError for a tokenizer whose rule cannot be changed here.
    """
    around = _around_text(tokenizer)
    if around is None or around[1][-1:] != [tokenizer.eos_token_id]:
        return False
    start = around[0]
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise LensrlError(
            f"model {name!r}: its tokenizer appends {tokenizer.eos_token} to every prompt; set add_eos_token to false "
            f"in its tokenizer_config.json"
        )
    if tokenizer.add_eos_token:  # else any later change to its tokens would append it again
        tokenizer.add_eos_token = False
    before = {"id": "start", "ids": start, "tokens": tokenizer.convert_ids_to_tokens(start)}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="start $A" if start else "$A",
        pair="start $A $B:1" if start else "$A $B:1",
        special_tokens=[before] if start else [],
    )
    return True


def _around_text(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]] | None:
    """Return the special tokens that a tokenizer puts before and after a text. None if it has no token for any sample.

    The samples are needed because a tokenizer may use one token for both the start and the end of sequence.
    """
    for text in _SAMPLES:
        plain = [*tokenizer(text, add_special_tokens=False)["input_ids"]]
        whole = [*tokenizer(text)["input_ids"]]
        for at in range(len(whole) - len(plain) + 1):
            if plain and whole[at : at + len(plain)] == plain:
                return whole[:at], whole[at + len(plain) :]
    return None
