"""A sandbox with all its layers, with some switched off, and with a package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensrl.errors import LensrlError
from lensrl.tasks.sandbox import Sandbox
from tests.tasks.sandbox.boxes import server_of

MODES = {  # layers that are switched off, and packages that programs may import
    "all layers": ((), ()),
    "no namespaces": (("namespaces",), ()),
    "no Landlock": (("landlock",), ()),
    "with numpy": ((), ("numpy",)),
}


@pytest.fixture(scope="module", params=MODES)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    without, packages = MODES[request.param]
    sandbox = Sandbox(without=without, packages=packages)
    try:
        assert sandbox.layers
    except LensrlError as error:
        pytest.skip(str(error))
    yield sandbox
    folder = Path(server_of(sandbox).folder)
    sandbox.close()
    assert not folder.exists()
