"""Compressed weight deltas: the same numbers in fewer bytes, and one clear sentence without the plugin."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl.errors import LensrlError
from lensrl.store.file.exact import add
from lensrl.store.file.hdf5 import Compression
from lensrl.store.file.seal import read_seal
from lensrl.store.run import Run
from lensrl.store.verify import check_file
from tests.store.synthetic import (
    PARAMETERS,
    Weights,
    activations,
    after_weights,
    before_weights,
    header,
    parameter,
    probe,
    score_arrays,
    training,
    write_run,
)

pytest.importorskip("hdf5plugin")

DEFLATE, BLOSC2, FLETCHER32 = 1, 32026, 3  # registered numbers of the HDF5 filters
CHANGED = [p.name for p in PARAMETERS[:5]]


def write_both(folder: Path) -> tuple[Path, Path]:
    """The same run with everything in it, not compressed and compressed."""
    paths = folder / "none.h5", folder / "blosc2.h5"
    kinds: tuple[Compression, ...] = ("none", "blosc2-zstd")
    for path, compression in zip(paths, kinds, strict=True):
        write_run(
            path,
            replace(header("full-rl"), compression=compression, snapshots=[2, 3]),
            PARAMETERS,
            before_weights(),
            after=after_weights(CHANGED),
            snapshots={2: after_weights(CHANGED[:3])},
            training=training(),
            scores=score_arrays(np.array([[0.0, 1.0], [0.25, 0.5]])),
            probe=probe(),
            activations=activations(),
        )
    return paths


def filters(path: Path) -> dict[str, list[int]]:
    """The filters of every dataset that is no axis."""
    found: dict[str, list[int]] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and not node.is_scale:
            plan = node.id.get_create_plist()
            found[name] = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_a_compressed_run_gives_the_same_as_one_that_is_not(tmp_path: Path) -> None:
    before, plain, packed = before_weights(), *map(Run, write_both(tmp_path))
    with plain, packed:
        for one, other, changed in [
            (plain.deltas, packed.deltas, CHANGED), (plain.snapshots[2], packed.snapshots[2], CHANGED[:3])
        ]:  # fmt: skip
            after = after_weights(changed)
            assert list(one) == list(other)
            changes = [
                dict(change for part in deltas for change in deltas.exact(part).values()) for deltas in (one, other)
            ]
            assert set(changes[0]) == set(changes[1]) == set(changed)
            for name in changed:
                assert changes[1][name].where.size, "this test is of repaired deltas"
                assert add(before[name], changes[1][name]).tobytes() == after[name].tobytes()
                assert changes[0][name].delta.tobytes() == changes[1][name].delta.tobytes()
        assert packed.deltas[1]["scale"].shape == ()
        for site, values in activations().items():
            np.testing.assert_array_equal(packed.activations[site][...], values)
        for name in ("scores", "training", "scores_by_item", "probe", "delta_norms"):
            assert getattr(plain, name)().equals(getattr(packed, name)()), name
    assert [check_file(path).status for path in (plain.path, packed.path)] == ["good", "good"]


def test_the_file_says_how_it_is_compressed(tmp_path: Path) -> None:
    for path, expected in zip(write_both(tmp_path), ("none", "blosc2-zstd"), strict=True):
        with h5py.File(path) as file:
            assert file.attrs["compression"] == expected


def test_deltas_and_activations_are_compressed_and_checked_and_nothing_else_is(tmp_path: Path) -> None:
    none, packed = map(filters, write_both(tmp_path))
    assert none.keys() == packed.keys()
    large = {name for name in none if name.startswith(("deltas/", "snapshots/2/deltas/", "activations/"))}
    assert "snapshots/2/deltas/0/attn.q.weight" in large
    texts = {name for name in none if name in ("completions/text", "training_completions/text")}  # always deflated
    for name in texts:
        assert set(none[name]) == set(packed[name]) == {DEFLATE, FLETCHER32}, name
    for name in none.keys() - texts:
        single = name == "deltas/1/scale"
        contiguous = "deltas/" in name
        assert none[name] == ([] if contiguous else [FLETCHER32]), name
        assert set(packed[name]) == (set() if single else {BLOSC2, FLETCHER32} if name in large else {FLETCHER32}), name


def test_deltas_that_are_not_compressed_lie_in_one_piece(tmp_path: Path) -> None:
    path, _ = write_both(tmp_path)
    seal, content = read_seal(path), path.read_bytes()
    assert seal is not None
    for p in PARAMETERS[:5]:
        name = f"deltas/{p.part}/{p.inner}"
        ((start, length),) = seal.datasets[name].ranges
        with Run(path) as run:
            whole = run.deltas[int(p.part) if p.part.isdecimal() else p.part][p.inner][...]
        assert content[start : start + length] == whole.tobytes()


def to_bf16(array: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, as fp32."""
    raw = array.view(np.uint32).astype(np.uint64)
    rounded = (raw + 0x7FFF + ((raw >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def stored_bytes(path: Path, before: Weights, after: Weights, compression: Compression) -> int:
    parameters = [parameter(name, "0", name, "mlp", values) for name, values in before.items()]
    write_run(path, replace(header("layer-0"), compression=compression), parameters, before, after=after)
    with Run(path) as run:
        for name, change in run.deltas.exact(0).values():
            assert add(before[name], change).tobytes() == after[name].tobytes()
    return path.stat().st_size


def test_weights_on_the_bfloat16_grid_become_much_smaller(tmp_path: Path) -> None:
    """A small step of every weight, in bfloat16: most stay, the rest move by one place, as in RL with bf16 weights."""
    rng = np.random.default_rng(0)
    start = rng.normal(scale=0.02, size=(512, 512)).astype(np.float32)
    before = {"w": to_bf16(start)}
    after = {"w": to_bf16(before["w"] + rng.normal(scale=2e-5, size=start.shape).astype(np.float32))}
    assert 0.1 < float(np.mean(before["w"] != after["w"])) < 0.4
    none = stored_bytes(tmp_path / "none.h5", before, after, "none")
    packed = stored_bytes(tmp_path / "packed.h5", before, after, "blosc2-zstd")
    assert none > before["w"].nbytes
    assert packed < 0.25 * none, f"{packed / none:.3f}"  # 0.16 when it was measured


def test_fp32_deltas_become_smaller_too_by_their_common_exponents(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = {"w": rng.normal(scale=0.02, size=(512, 512)).astype(np.float32)}
    after = {"w": before["w"] + rng.normal(scale=2e-5, size=(512, 512)).astype(np.float32)}
    none = stored_bytes(tmp_path / "none.h5", before, after, "none")
    packed = stored_bytes(tmp_path / "packed.h5", before, after, "blosc2-zstd")
    assert packed < 0.8 * none, f"{packed / none:.3f}"  # 0.67 when it was measured


def without_plugin(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python where hdf5plugin is not installed."""
    code = f"import sys\nsys.modules['hdf5plugin'] = None\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


READ = """
from lensrl import LensrlError, open_run
run = open_run(sys.argv[1])
print(run.name, run.score, len(run.scores()), len(run.training()), len(run.delta_norms()), len(run.probe()))
print(list(run.deltas))
for read in (lambda: run.deltas[0]['attn.q.weight'][...], lambda: run.deltas.exact(0), lambda: run.activations):
    try:
        read()
    except LensrlError as error:
        print(f'{type(error).__name__}: {error}')
"""


def test_without_the_plugin_all_but_the_compressed_arrays_can_be_read(tmp_path: Path) -> None:
    for path, refused in zip(write_both(tmp_path), (False, True), strict=True):
        done = without_plugin(READ, path)
        assert done.returncode == 0, done.stderr
        header_line, deltas, *errors = done.stdout.splitlines()
        assert header_line.split() == ["full-rl", "0.4375", "4", "3", "6", "3"]
        assert deltas == "[0, 1, 'embed']"
        assert len(errors) == 3 * refused
        assert all(line.startswith("LensrlError: blosc2-zstd compression needs a ") for line in errors)
        assert all(line.endswith(": pip install hdf5plugin") for line in errors)


RUN = """
from pathlib import Path
from lensrl import LensrlError, load_recipe, run_study
import lensrl.train.workshop
def refuse(*_, **__):
    raise AssertionError('training began')
lensrl.train.workshop.train = lensrl.train.workshop.load_base = refuse
try:
    run_study(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
except LensrlError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_recipe_that_asks_for_compression_fails_before_training_where_there_is_no_plugin(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('model = "tiny:qwen3"\n[task]\nname = "arithmetic"\n[store]\ncompression = "blosc2-zstd"\n')
    done = without_plugin(RUN, recipe, tmp_path / "study")
    assert done.stdout.startswith("blosc2-zstd compression needs a "), done.stderr
    assert done.stdout.endswith(": pip install hdf5plugin\n")
    assert not list(tmp_path.rglob("*.h5"))


def test_an_unknown_compression_is_refused_by_the_recipe(tmp_path: Path) -> None:
    from lensrl import load_recipe

    recipe = tmp_path / "r.toml"
    recipe.write_text('model = "tiny:qwen3"\n[task]\nname = "arithmetic"\n[store]\ncompression = "gzip"\n')
    with pytest.raises(LensrlError, match=r"store\.compression"):
        load_recipe(recipe)
