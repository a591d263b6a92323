"""The states of all random generators of a process, which a checkpoint of training keeps."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Return the states of all random generators of a process, as JSON."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"] = numpy["state"] | {"key": numpy["state"]["key"].tolist()}
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else torch.empty(0, dtype=torch.uint8)
    return {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": cuda.numpy().tobytes().hex(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set the states that `random_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(_bytes(states["torch"]))
    if states["cuda"]:
        torch.cuda.set_rng_state(_bytes(states["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
