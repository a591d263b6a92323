"""A trained model is finite, or the run has diverged."""

from __future__ import annotations

import pytest
import torch

from lensrl.models import references
from lensrl.models.base import Base
from lensrl.tasks import Item
from lensrl.train.checks import is_finite

ITEMS = [Item(f"{n}", f"{n}+{n}=", f"{2 * n}", "b") for n in (1, 20, 3, 4, 50)]


def test_logits_of_a_few_items_at_a_time_are_in_memory(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = base.fresh(), list[int]()
    model.get_submodule("lm_head").register_forward_hook(lambda *given: rows.append(given[2].shape[0]))
    assert is_finite(model, base, ITEMS)
    width = references.references(base.prompts, ITEMS).ids.shape[1]
    monkeypatch.setattr(references, "LOGITS", 2 * width * len(base.tokenizer))
    assert is_finite(model, base, ITEMS)
    assert rows == [5, 2, 2, 1]


@pytest.mark.parametrize("broken", [0, 2])
def test_one_logit_that_is_not_finite_is_found(base: Base, monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """It may be in any batch, at any position, of a prompt too."""
    model, done = base.fresh(), list[int]()
    monkeypatch.setattr(references, "LOGITS", 1)

    def overflow(_: object, __: object, logits: torch.Tensor) -> None:
        if len(done) == broken:
            logits[0, 0, 3] = torch.inf
        done.append(0)

    model.get_submodule("lm_head").register_forward_hook(overflow)
    assert not is_finite(model, base, ITEMS)
    assert len(done) == broken + 1
