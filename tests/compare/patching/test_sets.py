"""Which layers are patched at once, and what of it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensrl.compare.patching.sets import check_component, layer_sets
from lensrl.errors import LensrlError
from lensrl.store.patch import PatchComponent, PatchKey, Sets

LAYERS = st.sets(st.integers(0, 11), min_size=1).map(sorted)


@given(LAYERS)
def test_cumulative_sets_grow_from_one_end_and_complement_each_other(layers: list[int]) -> None:
    bottom, top = ([set(unit) for _, unit in layer_sets(sets, layers, 12)] for sets in ("bottom", "top"))
    for layer, below, above in zip(layers, bottom, top, strict=True):
        assert below | above == set(range(12))
        assert below & above == {layer}


@given(LAYERS.filter(lambda layers: len(layers) > 1))
def test_pairs_are_every_two_layers_once(layers: list[int]) -> None:
    pairs = [unit for _, unit in layer_sets("pairs", layers, 12)]
    assert len(pairs) == len(set(pairs)) == len(layers) * (len(layers) - 1) // 2
    assert all(set(pair) <= set(layers) and len(set(pair)) == 2 for pair in pairs)


@pytest.mark.parametrize("sets", ["single", "bottom", "top", "pairs", "together"])
def test_everything_follows_a_set_of_all_layers_alone(sets: Sets) -> None:
    whole = layer_sets(sets, range(3), 3, everything=True)
    assert (("everything", (0, 1, 2)) in whole) == (sets in ("bottom", "top", "together"))
    assert "everything" not in dict(layer_sets(sets, [1, 2], 4, everything=True)), "layer 0 is left out"


def test_a_result_stands_at_the_layer_that_its_set_ends_at() -> None:
    def key(sets: Sets, *layers: int) -> PatchKey:
        return PatchKey(
            what="weights", component="block", layers=layers, donor="full-rl", into="base", seed=0, sets=sets
        )

    assert [key("single", 3).layer, key("bottom", 0, 1, 2).layer, key("top", 2, 3).layer] == [3, 2, 2]
    names = {key(sets, 0, 1).file_name for sets in ("bottom", "top", "pairs", "together")} | {
        key("single", 0).file_name
    }
    assert len(names) == 5, "no two results share a file"
    assert key("single", 3).file_name == "weights.block.full-rl-into-base.layer-3.seed-0.h5", "as in older versions"


@pytest.mark.parametrize(
    ("component", "what", "sets", "message"),
    [
        ("head", "weights", "single", "--component head with --what weights: the weights of a head are not grafted"),
        ("stream", "both", "single", "the stream has no weights; add --what activations"),
        ("stream", "activations", "bottom", "its last layer would overwrite the others; leave out --sets"),
        ("head", "activations", "pairs", "each head is patched alone; leave out --sets"),
    ],
)
def test_what_cannot_be_patched_is_one_line(component: PatchComponent, what: str, sets: Sets, message: str) -> None:
    with pytest.raises(LensrlError) as caught:
        check_component(component, what, sets)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_layer_makes_no_pair() -> None:
    with pytest.raises(LensrlError, match="layer 3 alone makes no pair: name two layers or more"):
        layer_sets("pairs", [3], 8)
