"""Sums of single recoveries against all layers together, on metrics whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from lensrl.compare.patching.additivity import additivity, additivity_table
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.patch import PatchKey, PatchResult, Sets, write_patch
from lensrl.store.study import Study

ITEMS = 40
RNG = np.random.default_rng(0)
INTO, BENCHMARK = RNG.normal(size=ITEMS), ["only"] * ITEMS
GAINS = {layer: RNG.normal(loc=0.5, scale=0.1, size=ITEMS) for layer in range(4)}
SINGLES = {layer: INTO + gain for layer, gain in GAINS.items()}
SUM = INTO + sum(GAINS.values())


def test_independent_layers_add_up() -> None:
    found = additivity(INTO, SUM, SINGLES, SUM, BENCHMARK)
    assert found.single_sum.value == pytest.approx(1)
    assert found.together.value == pytest.approx(1)
    assert found.interaction == pytest.approx((0, 0, 0), abs=1e-9)


def test_layers_that_bring_the_same_gain_are_counted_once_each() -> None:
    """Each layer alone recovers half, all together no more than one of them."""
    half = INTO + 0.5
    found = additivity(INTO, INTO + 1, dict.fromkeys(range(4), half), half, BENCHMARK)
    assert (found.single_sum.value, found.together.value) == (pytest.approx(2), pytest.approx(0.5))
    assert found.interaction.value == pytest.approx(-1.5)


def test_layers_that_need_each_other_recover_nothing_alone() -> None:
    found = additivity(INTO, SUM, dict.fromkeys(range(4), INTO), SUM, BENCHMARK)
    assert found.interaction.value == pytest.approx(1)


def test_the_interaction_has_an_interval_of_its_own() -> None:
    """The two terms rise and fall with the same items, so their difference is known better than either."""
    noise = RNG.normal(scale=0.05, size=ITEMS)
    found = additivity(INTO, INTO + RNG.normal(2, 1, ITEMS), SINGLES, SUM + noise, BENCHMARK)
    assert found.interaction.value == pytest.approx(found.together.value - found.single_sum.value)
    widths = [high - low for _, low, high in (found.together, found.interaction)]
    assert widths[1] < 0.5 * widths[0]
    assert 0 in found.interaction


def test_no_change_to_share_is_undefined() -> None:
    found = additivity(INTO, INTO, SINGLES, SUM, BENCHMARK)
    assert (found.status, np.isnan(found.interaction.value)) == ("undefined", True)
    assert "M(from) - M(into)" in found.reason


def keep(study: Study, seed: int, donor: str, into: str, *, together: float) -> None:
    """Store a result for each layer alone, which recovers 0.1, and for all layers together."""
    before = RNG.normal(size=ITEMS)
    sources = {"donor": study[donor, seed].run_id, "into": study[into, seed].run_id}
    sets: list[tuple[Sets, tuple[int, ...], float]] = [("single", (layer,), 0.1) for layer in range(8)]
    for word, layers, share in [*sets, ("together", tuple(range(8)), together)]:
        key = PatchKey(what="weights", component="block", layers=layers, donor=donor, into=into, seed=seed, sets=word)
        metrics = {"reference_logprob": np.stack([before, before + 1, before + share])}
        (study.path / PATCH_FOLDER).mkdir(exist_ok=True)
        write_patch(study.path / PATCH_FOLDER, PatchResult(key, metrics, BENCHMARK, sources, {}))


def test_without_a_seed_the_table_is_of_the_lowest_that_both_runs_have(uneven_seeds: Study) -> None:
    for seed, together in ((0, 0.5), (1, 0.9)):
        keep(uneven_seeds, seed, "full-rl", "base", together=together)
    keep(uneven_seeds, 1, "layer-3", "full-rl", together=0.3)
    found = [additivity_table(uneven_seeds, seed=seed)["together"].tolist() for seed in (None, 0, 1)]
    assert found == [pytest.approx([0.5]), pytest.approx([0.5]), pytest.approx([0.9])]
    shared = additivity_table(uneven_seeds, "layer-3", "full-rl")
    assert (shared["together"].tolist(), shared["single_sum"].tolist()) == (pytest.approx([0.3]), pytest.approx([0.8]))
