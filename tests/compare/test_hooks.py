"""A run's model with hooks, and its activations on prompts of one's own: against plain transformers and the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import lensrl
from lensrl import LensrlError, Study
from lensrl.compare.patching.graft import run_weights
from lensrl.models.base import Base
from lensrl.models.references import references
from lensrl.tasks import evaluation_items, load_task
from tests.conftest import SMALL

PROMPTS = ["47+38=", "5+6="]


def hidden_states(base: Base, study: Study, ids: torch.Tensor) -> Any:
    """The residual stream of full-rl as transformers gives it: the embeddings, then one (token, feature) per layer."""
    model = base.fresh(run_weights(study["full-rl"], base))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(ids[None], output_hidden_states=True).hidden_states


def test_the_stream_of_own_prompts_is_that_of_transformers(base: Base, small_study: Study) -> None:
    found = lensrl.activations(small_study, "full-rl", PROMPTS)
    assert len(repr(found)) < 300  # and not every number
    assert f"<Activations of {len(PROMPTS)} prompt" in repr(found)
    assert len(found._repr_html_()) < 2000
    probe, sites = found
    assert list(probe.columns) == ["token_id", "prompt", "position", "text"]
    assert probe.groupby("prompt")["text"].agg("".join).tolist() == PROMPTS
    assert set(sites) == {"block_out", "attn_out", "mlp_out"}
    assert all(values.shape == (8, len(probe), base.model.config.hidden_size) for values in sites.values())
    for number, rows in probe.groupby("prompt"):
        states = hidden_states(base, small_study, torch.tensor(rows["token_id"].to_numpy(np.int64)))
        for layer in range(7):  # transformers normalises the last one
            own = sites["block_out"][layer, (probe["prompt"] == number).to_numpy()]
            np.testing.assert_allclose(own, states[layer + 1][0].numpy(), rtol=1e-5, atol=1e-4)


def test_the_prompt_of_a_probed_item_has_the_activations_of_the_file(base: Base, small_study: Study) -> None:
    run, item = small_study["full-rl"], evaluation_items(load_task(SMALL), SMALL)[0]
    probe, sites = lensrl.activations(small_study, "full-rl", item.prompt)
    stored = run.probe()[run.probe()["prompt"] == 0]
    assert stored["token_id"].tolist()[: len(probe)] == probe["token_id"].tolist()
    assert len(stored) == len(probe) + len(references(base.prompts, [item]).answer[0].nonzero())
    np.testing.assert_allclose(sites["mlp_out"], run.activations["mlp_out"][:, : len(probe)], rtol=1e-5, atol=1e-4)
    other = lensrl.activations(small_study, "base", item.prompt).sites["mlp_out"]
    assert np.abs(other - sites["mlp_out"]).max() > 1e-3


@pytest.mark.parametrize("prompts", [[], [""], ["1+1=", ""], ""])
def test_prompts_without_a_token_are_refused(small_study: Study, prompts: Any) -> None:
    with pytest.raises(LensrlError, match="there is no token to read"):
        lensrl.activations(small_study, "full-rl", prompts)
    with pytest.raises(LensrlError, match="full-rl"):
        lensrl.activations(small_study, "full-lr", PROMPTS)


def test_a_run_gives_a_bridge_of_its_own_weights(base: Base, small_study: Study) -> None:
    run = small_study["layer-3"]
    bridge = run.bridge()
    weights = run_weights(run, base)
    found = dict(bridge.original_model.named_parameters())
    assert torch.equal(bridge.blocks[3].mlp.out.weight, weights["model.layers.3.mlp.down_proj.weight"])
    assert not torch.equal(bridge.blocks[3].mlp.out.weight, base.weights["model.layers.3.mlp.down_proj.weight"])
    assert len(found) == len(weights)
    _, cache = bridge.run_with_cache("47+38=")
    assert cache["blocks.3.hook_out"].shape[-1] == base.model.config.hidden_size
