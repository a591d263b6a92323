"""Numbers as figures, the page and the terminal print them."""

from __future__ import annotations

import pytest

from lensrl.show.words import small


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.4605, "0.461"),
        (0.001, "0.001"),
        (0.00022, "0.00022"),
        (8.93e-6, "8.9e-06"),
        (0.0, "0.000"),
        (float("nan"), "–"),
    ],
)
def test_a_small_number_is_not_printed_as_nothing(value: float, printed: str) -> None:
    assert small(value) == printed
