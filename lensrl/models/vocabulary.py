"""Check the vocabulary of a checkpoint against its base: the same ids, and no token in the rows that are left out.

Many models pad their embeddings with rows that no text reaches: Qwen2.5 has 151,665 tokens and 151,936 rows. A trainer
may cut such rows, or add some. A study compares and scores the rows that both models have. Rows that only the base has
stay the base's own; rows that only the checkpoint has are left out. Both are right only for rows without a token.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from lensrl.errors import LensrlError, reason
from lensrl.models.adapter import MergedAdapter
from lensrl.models.base import Base
from lensrl.models.checkpoint import CheckpointWeights
from lensrl.models.checkpoint_files import what
from lensrl.models.tokenizer import load_tokenizer, text_tokens

TOKENIZER = "tokenizer.json"  # without it, a folder has no tokenizer to compare


def check_vocabulary(weights: CheckpointWeights | MergedAdapter, base: Base) -> None:
    """Raise LensrlError where a checkpoint cannot be read with the tokenizer of its base.

    The tokenizer in the checkpoint's folder, if there is one, may have other files. A token that both know must have
    one id. Where the numbers of rows differ, no token may be in a row that one of the two models lacks.
    """
    own = _load(weights)
    ids = text_tokens(base.tokenizer)
    theirs = {} if own is None else text_tokens(own)
    moved = next((token for token, number in theirs.items() if ids.get(token, number) != number), None)
    if moved is not None:
        raise LensrlError(
            f"{what(weights.place)} has another tokenizer than {base.name}: the token {moved!r} is {theirs[moved]} "
            f"there and {ids[moved]} in the base; give the base that was trained"
        )
    rows = weights.vocabulary
    if rows is None:
        return
    for tokens, owner in ((ids, base.name), (theirs, weights.place.spelled)):
        last = max(tokens, key=tokens.__getitem__, default=None)
        if last is not None and tokens[last] >= rows.common:
            cure = (
                f"resize the base, model.resize_token_embeddings({rows.checkpoint}), save it with the tokenizer of the "
                f"checkpoint, and name that folder as the base"
                if rows.checkpoint > rows.base
                else "give the checkpoint with all of its rows"
            )
            raise LensrlError(
                f"{what(weights.place)} has {rows.checkpoint} rows of embeddings and {base.name} has {rows.base}, and "
                f"the tokenizer of {owner} uses a row that only one of them has ({last!r}, {tokens[last]}): a study "
                f"scores the rows that both have; {cure}"
            )


def _load(weights: CheckpointWeights | MergedAdapter) -> PreTrainedTokenizerBase | None:
    if not (weights.folder / TOKENIZER).is_file():
        return None
    try:
        return load_tokenizer(str(weights.folder))
    except Exception as error:  # transformers and tokenizers raise plain exceptions
        raise LensrlError(
            f"{what(weights.place)}: its tokenizer cannot be loaded ({reason(error)}); copy it again, or delete its "
            f"files to use the base's"
        ) from None
