"""The reference of the KL term: the base, in the model that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from lensrl.models.shards import is_sharded, local


class BaseInPlace:
    """Holds the base's values of the parameters that train, and puts them back for a forward pass.

    TRL loads a second model as its reference. All frozen parameters are the base's already, so a run that trains one
    layer needs one more copy of this layer. To be made before training begins.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._base = {p: local(p.detach()).clone() for p in model.parameters() if p.requires_grad}
        self._sharded = is_sharded(model)

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Give the trained parameters the base's values. Storage changes hands, and nothing is copied."""
        if self._sharded:
            with self._copied():
                yield
            return
        trained = {parameter: parameter.data for parameter in self._base}
        try:
            for parameter, values in self._base.items():
                parameter.data = values
            yield
        finally:
            for parameter, values in trained.items():
                parameter.data = values

    @contextmanager
    def _copied(self) -> Iterator[None]:
        """Copy the base's values into the shards, and the trained ones back: shards must keep their storage."""
        trained = {parameter: local(parameter.detach()).clone() for parameter in self._base}
        try:
            for parameter, values in self._base.items():
                local(parameter.detach()).copy_(values)
            yield
        finally:
            for parameter, values in trained.items():
                local(parameter.detach()).copy_(values)


def stop_backward(block: torch.nn.Module) -> None:
    """End the backward pass at the input of a block, the lowest that trains.

    Without gradient checkpointing, autograd stops there by itself. With it, transformers makes the embedding's output
    require a gradient, which the backward pass would carry through every frozen block below.
    """

    def detach(
        _: torch.nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if arguments:
            return (arguments[0].detach(), *arguments[1:]), given
        return arguments, given | {"hidden_states": given["hidden_states"].detach()}

    block.register_forward_pre_hook(detach, with_kwargs=True)
