"""Arrays that are read when they are sliced: NumPy's results, the slice and nothing more, and one clear error."""

from __future__ import annotations

import math
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lensrl.errors import Damaged, LensrlError, StoreError
from lensrl.store.file.atomic import new_file
from lensrl.store.file.hdf5 import create, create_contiguous
from lensrl.store.file.lazy import LazyArray
from lensrl.store.run import Run
from lensrl.store.study import Study, open_study
from tests.store.synthetic import (
    PARAMETERS,
    add_run,
    after_weights,
    before_weights,
    header,
    make_study,
    training,
    write_full_run,
    write_run,
)

SHAPES = [(), (1,), (7,), (5, 4), (3, 1, 6), (0, 3)]
LAYOUTS = ["contiguous", "chunked", "compressed"]
CHANGED = [p.name for p in PARAMETERS[:5]]
Pairs = dict[tuple[str, tuple[int, ...]], tuple[LazyArray, np.ndarray]]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(layout, shape) -> the array in a file, and in memory."""
    path, pairs = tmp_path_factory.mktemp("arrays") / "arrays.h5", Pairs()
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for shape in SHAPES:
            values = np.asarray(rng.normal(size=shape), np.float32)
            for layout in LAYOUTS:
                if layout == "contiguous":
                    made = create_contiguous(file, f"{layout}{shape}", shape, values.dtype, [])
                    if values.size:
                        made[...] = values
                elif layout == "chunked":
                    create(file, f"{layout}{shape}", values)
                else:
                    pytest.importorskip("hdf5plugin")
                    create(file, f"{layout}{shape}", values, compression="blosc2-zstd")
                pairs[layout, shape] = LazyArray(file[f"{layout}{shape}"]), values  # type: ignore[arg-type]
    with h5py.File(path, "r") as file:
        yield {key: (LazyArray(file[lazy.name]), values) for key, (lazy, values) in pairs.items()}  # type: ignore[arg-type]


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """What one may write between the brackets: mostly good, some out of range or of no use."""
    near = st.integers(-9, 9)
    part = st.one_of(
        near, near.map(np.int64), st.builds(slice, near | st.none(), near | st.none(), near | st.none()),
        st.just(Ellipsis), st.just(0.5), st.just("name"),
    )  # fmt: skip
    good = hnp.basic_indices(shape) if shape else st.sampled_from([(), Ellipsis])
    return draw(st.one_of(good, part, st.lists(part, max_size=4).map(tuple), hnp.arrays(np.bool_, shape)))


def backwards(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(isinstance(part, slice) and part.step is not None and part.step < 0 for part in parts)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None)
@given(data=st.data())
def test_a_key_selects_what_it_selects_of_the_whole_array(arrays: Pairs, layout: str, data: st.DataObject) -> None:
    """HDF5 cannot read backwards; whatever else NumPy takes gives the same, and what it refuses is an IndexError."""
    shape = data.draw(st.sampled_from(SHAPES))
    key = data.draw(keys(shape))
    lazy, values = arrays[layout, shape]
    try:
        expected = values[key]
    except (IndexError, ValueError):
        with pytest.raises(IndexError):
            lazy[key]
        return
    if backwards(key) or (shape == () and isinstance(key, np.ndarray)):
        with pytest.raises(IndexError, match="cannot be read so"):
            lazy[key]
        return
    found = lazy[key]
    assert np.shape(found) == np.shape(expected)
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_array_says_how_large_it_is_and_becomes_a_numpy_array(
    arrays: Pairs, layout: str, shape: tuple[int, ...]
) -> None:
    lazy, values = arrays[layout, shape]
    assert (lazy.shape, lazy.dtype, lazy.ndim) == (values.shape, values.dtype, values.ndim)
    assert (lazy.size, lazy.nbytes) == (values.size, values.nbytes)
    np.testing.assert_array_equal(np.asarray(lazy), values, strict=True)
    np.testing.assert_array_equal(np.asarray(lazy, np.float64), values.astype(np.float64), strict=True)
    if shape:
        assert len(lazy) == len(values)
        np.testing.assert_array_equal(np.array([lazy[i] for i in range(len(lazy))]).reshape(shape), values)


def reads(monkeypatch: pytest.MonkeyPatch, most: int = 1 << 30) -> list[int]:
    """The bytes of every read past HDF5; the system may give less than it is asked for."""
    counts: list[int] = []
    preadv = os.preadv

    def watched(file: int, buffers: list[memoryview], offset: int) -> int:
        counts.append(preadv(file, [buffers[0][:most]], offset))
        return counts[-1]

    monkeypatch.setattr(os, "preadv", watched)
    return counts


@pytest.mark.parametrize(
    ("key", "bytes_read"), [(slice(1, 3), 32), (slice(None), 80), (..., 80), (slice(4, 2), 0), (slice(-1, 99), 16)]
)
def test_a_slice_reads_its_own_bytes_and_no_others(
    arrays: Pairs, key: Any, bytes_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy, values = arrays["contiguous", (5, 4)]
    counts = reads(monkeypatch)
    np.testing.assert_array_equal(lazy[key], values[key])
    assert sum(counts) == bytes_read


def test_a_read_that_comes_in_pieces_is_put_together(arrays: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads 2 GiB at a time at the most, which is less than the embedding of a large model."""
    lazy, values = arrays["contiguous", (5, 4)]
    counts = reads(monkeypatch, most=30)
    np.testing.assert_array_equal(lazy[...], values)
    assert counts == [30, 30, 20]


def test_a_large_slice_of_a_chunked_array_leaves_the_other_chunks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensrl.store.file.hdf5.CHUNK_BYTES", 64)
    values = np.arange(400, dtype=np.float32).reshape(100, 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        last = create(file, "a", values).id.get_chunk_info(24)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[last.byte_offset] ^= 1  # whoever reads it fails its checksum
    (tmp_path / "a.h5").write_bytes(content)
    with h5py.File(tmp_path / "a.h5") as file:
        lazy = LazyArray(file["a"])  # type: ignore[arg-type]
        np.testing.assert_array_equal(lazy[:96], values[:96])
        with pytest.raises(Damaged, match=r"a\.h5 is damaged at a \("):
            lazy[96:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_full_run(tmp_path / "full-rl.seed-3.h5")
    return tmp_path / "full-rl.seed-3.h5"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_file_cut_short_after_it_was_opened_is_damaged(path: Path, share: float) -> None:
    with Run(path) as run:
        lazies = [lazy for part in run.deltas.values() for lazy in part.values()] + [*run.activations.values()]
        os.truncate(path, int(path.stat().st_size * share))
        complaints = []
        for lazy in lazies:
            try:
                lazy[...]
            except Damaged as error:
                complaints.append(str(error).startswith(f"{path} is damaged at {lazy.name} ("))
        assert complaints
        assert all(complaints)


FACTS = ("recipe", "provenance", "snapshots", "activations")
TABLES = (
    "scores_by_item",
    "scores",
    "training",
    "probe",
    "item_score",
    "delta_norms",
    "layer_delta_norms",
    "to_xarray",
)
READ: dict[str, Callable[[Run], object]] = {
    **{name: operator.attrgetter(name) for name in FACTS},
    **{name: operator.methodcaller(name) for name in TABLES},
    "item_score": lambda run: run.item_score(),
    "preview": lambda run: run.preview("scores/score"),
    "contents": lambda run: run._repr_html_(),
}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_a_closed_run_says_that_it_is_closed(path: Path, read: Callable[[Run], object]) -> None:
    run = Run(path)
    run.close()
    with pytest.raises(LensrlError, match="the run is closed: open it again with"):
        read(run)


def test_what_was_taken_from_a_run_that_is_closed_says_so_too(path: Path) -> None:
    with Run(path) as run:
        deltas, site = run.deltas, run.activations["block_out"]
        part, lazy = deltas[0], deltas[0]["attn.q.weight"]
    for read in (
        lambda: lazy[0], lambda: np.asarray(site), lambda: part.frobenius, lambda: deltas[0], lambda: list(deltas),
        lambda: deltas.exact(0),
    ):  # fmt: skip
        with pytest.raises(LensrlError, match="the run is closed"):
            read()
    assert lazy.shape == (4, 4)


def test_the_frobenius_norm_of_a_part_is_that_of_its_arrays(path: Path) -> None:
    with Run(path) as run:
        for part, deltas in run.deltas.items():
            entries = np.concatenate([np.asarray(lazy, np.float64).reshape(-1) for lazy in deltas.values()])
            assert deltas.frobenius == pytest.approx(math.sqrt(math.fsum(entries**2)), rel=1e-12), part
            assert deltas.frobenius > 0
        assert run.deltas["final_norm"].frobenius == 0


def test_each_snapshot_has_the_norms_of_its_own_arrays(tmp_path: Path) -> None:
    halfway, end = after_weights(CHANGED[:2]), after_weights(CHANGED)
    about = replace(header("full-rl"), snapshots=[2, 4])
    write_run(
        tmp_path / "run.h5", about, PARAMETERS, before_weights(), after=end, snapshots={2: halfway}, training=training()
    )
    with Run(tmp_path / "run.h5") as run:
        assert list(run.snapshots) == [2, 4]
        assert list(run.snapshots[2]) == [0, "embed"]
        for step, weights in ((2, halfway), (4, end)):
            found = run.snapshots[step][0]
            expected = [weights[p.name].astype(np.float64) - before_weights()[p.name] for p in PARAMETERS[1:3]]
            total = math.sqrt(sum(float((e.astype(np.float32).astype(np.float64) ** 2).sum()) for e in expected))
            assert found.frobenius == pytest.approx(total, rel=1e-6)
        assert run.snapshots[2][0].frobenius != run.snapshots[4][0].frobenius


def test_deltas_are_mappings(path: Path) -> None:
    with Run(path) as run:
        assert (list(run.deltas), len(run.deltas)) == ([0, 1, "embed"], 3)
        assert list(run.deltas[0]) == list(run.deltas[0].keys()) == ["attn.q.weight", "mlp.conv.weight"]
        assert "attn.q.weight" in run.deltas[0]
        assert "attn.q" not in run.deltas[0]
        assert run.deltas[0].get("attn.q") is None
        assert 5 not in run.deltas
        assert run.deltas.get("absent") is None
        assert {name: lazy.shape for name, lazy in run.deltas[1].items()} == {"norm.weight": (4,), "scale": ()}


def test_a_layer_may_be_numpys_number(path: Path) -> None:
    """A layer that comes out of an array, one that changed and one that did not."""
    write_run(path, header("layer-0"), PARAMETERS, before_weights(), after=after_weights(CHANGED[1:2]))
    with Run(path) as run:
        assert [len(run.deltas[layer]) for layer in np.arange(2)] == [1, 0]


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda run: run.deltas["embedd"], "no part 'embedd'; did you mean 'embed'?"),
        (lambda run: run.deltas[7], "no layer 7: there are 0 to 1"),
        (lambda run: run.deltas[0]["attn.k.weight"], "no delta of 'attn.k.weight' in part 0; did you mean 'attn.q.we"),
        (lambda run: run.deltas["lm_head"]["x"], "no delta of 'x' in part lm_head"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(path: Path, look: Callable[[Run], object], expected: str) -> None:
    with Run(path) as run, pytest.raises(KeyError) as caught:
        look(run)
    assert caught.value.args[0].startswith(expected)


def study_of(tmp_path: Path) -> Path:
    folder = make_study(tmp_path / "study")
    for name, solved in [("base", 10), ("full-rl", 30), ("layer-0", 20), ("layer-1", 12)]:
        add_run(folder, name, {"only": [1.0] * solved + [0.0] * (40 - solved)})
    return folder


def test_keys_are_completed(path: Path, tmp_path: Path) -> None:
    with Run(path) as run, open_study(study_of(tmp_path)) as study:
        assert run.deltas._ipython_key_completions_() == [0, 1, "embed"]
        assert run.deltas[1]._ipython_key_completions_() == ["norm.weight", "scale"]
        names = ["base", "full-rl", "layer-0", "layer-1"]
        for completed in (study, study.runs):
            assert completed._ipython_key_completions_() == [*names, *((name, 0) for name in names)]


def test_ipython_completes_keys(path: Path, tmp_path: Path) -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    with Run(path) as run, open_study(study_of(tmp_path)) as study:
        shell.user_ns.update(deltas=run.deltas, study=study, part=run.deltas[1])
        for text, completed in [('study["full', "full-rl"), ('deltas["em', "embed"), ('part["nor', "norm.weight")]:
            assert any(completed in match for match in shell.complete(text)[1]), text


def test_runs_and_studies_travel_to_another_process(path: Path, tmp_path: Path) -> None:
    with Run(path) as run, Study(study_of(tmp_path)) as study:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            scores = pool.apply(operator.methodcaller("scores"), (run,))
            contributions = pool.apply(operator.methodcaller("contributions"), (study,))
        assert scores.equals(run.scores())
        assert contributions.equals(study.contributions())
        copy = pickle.loads(pickle.dumps(run))
        assert (copy.run_id, copy.path) == (run.run_id, run.path.absolute())
        copy.close()
        assert run.deltas[0].frobenius > 0  # closing the copy closes the copy


def test_a_pickled_run_is_found_from_another_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with Run(path.name) as run:
        sent = pickle.dumps(run)
    monkeypatch.chdir("/")
    with pickle.loads(sent) as again:
        assert again.name == "full-rl"
    path.unlink()
    with pytest.raises(StoreError, match=r"no file at .*full-rl\.seed-3\.h5"):
        pickle.loads(sent)


READER = "import sys; from lensrl import Run; run = Run(sys.argv[1]); run.scores(); print('open', flush=True); input()"


def test_a_reader_is_in_nobodys_way_alive_or_killed(path: Path, tmp_path: Path) -> None:
    """HDF5's own lock, which a program that asks for it gets, and a new file in the place of the one that is read."""
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdin is not None
    try:
        assert reader.stdout.readline() == "open\n"
        write_full_run(tmp_path / "new.h5")
        for alive in (True, False):
            if not alive:
                reader.kill()
                reader.wait()
            with h5py.File(path, "r+", locking=True), new_file(path) as partial:
                partial.write_bytes((tmp_path / "new.h5").read_bytes())
            with Run(path) as run:
                assert len(run.scores()) == 6
        assert sorted(file.name for file in tmp_path.iterdir()) == ["full-rl.seed-3.h5", "new.h5"]
    finally:
        reader.kill()
        reader.wait()
        reader.stdin.close()
        reader.stdout.close()
