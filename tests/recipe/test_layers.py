"""Layer specifications and run names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensrl.errors import LensrlError
from lensrl.recipe.layers import LayerSpec, choose_layers, parse_layers, read_word, spell_layers
from lensrl.recipe.runs import layer_run, rate_run, run_layer, run_rate


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
        ("all-but-7", [0, 1, 2, 3, 4, 5, 6]),
        ("all-but-0-3,7", [4, 5, 6]),
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


@given(st.sets(st.integers(0, 11), min_size=1).map(sorted))
def test_spelling_layers_is_the_inverse_of_parsing_them(layers: list[int]) -> None:
    assert parse_layers(spell_layers(layers), 12) == layers


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("mid-3", [2, 3, 4]),  # of 8 layers, three cannot be centred: the lower ones
        ("mid-4", [2, 3, 4, 5]),
        ("mid-8", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("top-2", [3, 6]),
        ("bottom-3", [0, 1, 7]),
        ("0-1,5", [0, 1, 5]),
        ("all-but-2-6", [0, 1, 7]),
        ([7, 2], [2, 7]),
        ("full", None),
    ],
)
def test_words_choose_layers(spec: LayerSpec, layers: list[int] | None) -> None:
    contribution = dict(enumerate([-0.2, 0.1, 0.5, 0.9, 0.6, 0.7, 0.8, 0.2]))
    assert choose_layers(spec, 8, draw="any", contribution=contribution) == layers


def test_a_random_draw_is_its_names_own_and_every_layer_has_its_turn() -> None:
    draws = {name: choose_layers("random-3", 8, draw=name) for name in (f"random-{i}" for i in range(400))}
    assert draws["random-0"] == choose_layers("random-3", 8, draw="random-0") == [3, 5, 6]  # for good
    assert all(len(set(layers or ())) == 3 for layers in draws.values())
    counts = [sum(layer in (layers or ()) for layers in draws.values()) for layer in range(8)]
    assert min(counts) > 110  # 150 each on average, with a standard deviation of 9.7
    assert max(counts) < 190


@pytest.mark.parametrize("spec", ["mid-9", "random-0", "top-100"])
def test_more_layers_than_there_are_cannot_be_chosen(spec: str) -> None:
    with pytest.raises(LensrlError, match=rf"'{spec}' asks for \d+ layers: this model has 8"):
        choose_layers(spec, 8, draw="x", contribution=dict.fromkeys(range(8), 0.0))


def test_a_ranking_needs_contributions() -> None:
    with pytest.raises(LensrlError, match="'top-3' is chosen by contribution"):
        choose_layers("top-3", 8, draw="x")


@pytest.mark.parametrize(
    ("word", "near"),
    [("tpo-3", "; did you mean 'top'?"), ("middle-3", "; did you mean 'mid'?"), ("mid3", ""), ("q", "")],
)
def test_an_unknown_word_names_the_known_ones(word: str, near: str) -> None:
    with pytest.raises(LensrlError) as caught:
        read_word(word)
    assert str(caught.value).startswith(f"{word!r} names no layers{near}")
    assert "mid-3, random-3, top-3; full, all, all-but-7, 0-7, or a list" in str(caught.value)


@given(st.integers(0, 1000), st.floats(1e-9, 1e3))
def test_a_run_at_another_rate_is_no_single_layer_run(layer: int, rate: float) -> None:
    name = rate_run(layer_run(layer), rate)
    assert run_layer(name) is None
    assert run_rate(name) == (layer_run(layer), rate)
    assert not set(name) & set("/\\: *?")


@pytest.mark.parametrize("run", ["layer-3", "full-rl", "mid-3", "a@b", "a@", "@0.1", "a@1.2.3"])
def test_other_runs_have_the_recipes_rate(run: str) -> None:
    assert run_rate(run) is None


@given(st.integers(0, 1000))
def test_run_layer_inverts_layer_run(layer: int) -> None:
    assert run_layer(layer_run(layer)) == layer


def test_the_run_of_layer_20_is_called_layer_20() -> None:
    assert layer_run(20) == "layer-20"


@pytest.mark.parametrize("run", ["base", "full-rl", "layer", "layer-", "layer-x", "layer-1-2", "top-5", "player-3"])
def test_other_runs_train_no_single_layer(run: str) -> None:
    assert run_layer(run) is None
