"""Layer specifications and run names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensrl.errors import LensrlError
from lensrl.layers import LayerSpec, layer_run, parse_layers, run_layer


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        (3, [3]),
        ("3", [3]),
        ("0-7", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("2-2", [2]),
        ("5, 1,3", [1, 3, 5]),
        ("0-2,1-3", [0, 1, 2, 3]),
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]),
        ([6, "0-1", "1"], [0, 1, 6]),
        ([], []),
    ],
)
def test_a_specification_names_each_layer_once_in_order(spec: LayerSpec, layers: list[int]) -> None:
    assert parse_layers(spec, 8) == layers


@given(st.sets(st.integers(0, 35)))
def test_a_list_of_layers_says_the_same_as_its_words(layers: set[int]) -> None:
    assert parse_layers(list(layers), 36) == sorted(layers)
    if layers:
        assert parse_layers(",".join(map(str, layers)), 36) == sorted(layers)


@pytest.mark.parametrize("spec", ["", "x", "-1", -1, "1-", "1-2-3", "1;2", "1,,2", "1.5", ["1", "x"]])
def test_what_is_not_a_layer_is_named(spec: LayerSpec) -> None:
    with pytest.raises(LensrlError, match="is not a layer: give a number, a range such as 0-7"):
        parse_layers(spec, 8)


def test_a_backwards_range_says_how_to_write_it() -> None:
    with pytest.raises(LensrlError, match=r"'5-2' runs backwards: write 2-5"):
        parse_layers("5-2", 8)


@pytest.mark.parametrize("spec", [8, "8", "6-8", "7-1000000000000"])
def test_a_layer_beyond_the_model_says_how_many_there_are(spec: LayerSpec) -> None:
    with pytest.raises(LensrlError, match=r"out of range: this model has 8 layers, 0 to 7"):
        parse_layers(spec, 8)


@given(st.integers(0, 1000))
def test_run_layer_inverts_layer_run(layer: int) -> None:
    assert run_layer(layer_run(layer)) == layer


def test_the_run_of_layer_20_is_called_layer_20() -> None:
    assert layer_run(20) == "layer-20"


@pytest.mark.parametrize("run", ["base", "full-rl", "layer", "layer-", "layer-x", "layer-1-2", "top-5", "player-3"])
def test_other_runs_train_no_single_layer(run: str) -> None:
    assert run_layer(run) is None
