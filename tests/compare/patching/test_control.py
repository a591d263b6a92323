"""Random grafts: of the layer's norms, the same twice, and far from what the trained layer recovers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lensrl
from lensrl import LensrlError, Study
from lensrl.compare.patching.control import _random
from lensrl.compare.patching.wrong_items import draw_partners


def test_a_random_delta_has_the_norm_of_the_trained_one_and_no_direction() -> None:
    rng = torch.Generator().manual_seed(0)
    into, donor = (torch.randn(60, 50, generator=rng) for _ in range(2))
    deltas = [(_random(into, donor, 3, draw, 0) - into).double() for draw in (0, 1)]
    for delta in deltas:
        assert float(delta.norm()) == pytest.approx(float((donor - into).norm()), rel=1e-5)
    for a, b in ((deltas[0], deltas[1]), (deltas[0], (donor - into).double())):
        assert abs(float((a * b).sum() / (a.norm() * b.norm()))) < 4 / np.sqrt(3000)


def test_random_grafts_are_seeded_and_leave_out_layers_that_did_not_move(small_study: Study) -> None:
    first = lensrl.random_grafts(small_study, layers=[3], from_run="layer-3", draws=2)
    again = lensrl.random_grafts(small_study, layers=[0, 3], from_run="layer-3", draws=1)
    assert first["draw"].tolist() == [0, 1]
    assert first["log_p"].nunique() == 2
    assert again["layer"].tolist() == [3]
    assert again["log_p"][0] == pytest.approx(first["log_p"][0], abs=1e-6)
    with pytest.raises(LensrlError, match="draws is 0"):
        lensrl.random_grafts(small_study, layers=[3], draws=0)


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_partners_are_others_of_the_same_kind_each_once(kinds: list[str]) -> None:
    partner = draw_partners(kinds)
    assert sorted(partner) == list(range(len(kinds)))
    for i, j in enumerate(partner):
        assert kinds[i] == kinds[j]
        assert (i == j) == (kinds.count(kinds[i]) == 1)
    assert draw_partners(kinds).tolist() == partner.tolist()


def test_the_right_items_recover_what_patching_says_and_the_wrong_ones_lose_the_item(small_study: Study) -> None:
    table = lensrl.wrong_item_patches(small_study, layers=[3, 7], component="stream")
    said = lensrl.patch(small_study, layers=[3, 7], what="activations", component="stream")
    assert table["items"].unique().tolist() == [48 - table["left_out"][0]]
    if table["left_out"][0] == 0:
        assert table["right"].to_numpy() == pytest.approx(said["recovery"].to_numpy(), abs=1e-3, nan_ok=True)
    # After the last layer the wrong item's stream is all that is left: log p is that of another item's answers.
    assert table.set_index(["layer", "metric"])["wrong"][7, "reference_logprob"] < -1
    assert said["recovery"].abs().min() > 0
    assert table["own"].tolist() == [0.0] * 4  # the receiver's own activations, exactly
    with pytest.raises(LensrlError, match="whole layers"):
        lensrl.wrong_item_patches(small_study, layers=[3], component="head")
