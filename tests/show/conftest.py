"""One planted study for the tests that look at every figure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lensrl import Study, open_study
from tests.show.planted import make_planted_study


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Six layers, two seeds, two benchmarks."""
    with open_study(make_planted_study(tmp_path_factory.mktemp("planted") / "study", 6, (0, 1), items=80)) as opened:
        yield opened
