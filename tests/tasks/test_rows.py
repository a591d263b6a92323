"""Rows from files and data sets: the same rows whatever they are packed in, and one clear line for what is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from lensrl.errors import RecipeError
from lensrl.recipe import Dataset, Source
from lensrl.tasks.rows import pick, place, read_rows

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "one\u2028two\x85three", "answer": "3"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def packed(folder: Path, form: str) -> Source:
    match form:
        case "jsonl.gz":
            return written(folder / "rows.jsonl.gz", gzip.compress(LINES.encode(), mtime=0))
        case "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
            return folder / "rows.parquet"
        case "folder":
            written(folder / "rows" / "train.jsonl", '{"question": "other", "answer": "split"}\n')
            parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows" / "test.parquet")
            (folder / "rows" / "train.jsonl").unlink()
            return Dataset(dataset=str(folder / "rows"), split="test")
    return written(folder / f"rows.{form}", LINES)


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "parquet", "folder"])
def test_the_rows_are_the_same_whatever_they_are_packed_in(tmp_path: Path, form: str) -> None:
    assert list(read_rows(packed(tmp_path, form))) == [(1, ROWS[0]), (2, ROWS[1])]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "1+1="}\n')
    assert list(read_rows(path)) == [(1, {"question": "1+1="})]


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", '\n{"a": 1}\n \n\n{"a": 2}')
    assert [number for number, _ in read_rows(path)] == [2, 5]


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.jsonl", "", r"a\.jsonl is empty: it needs one JSON object per line"),
        ("a.jsonl", "\n \n", r"a\.jsonl is empty"),
        ("a.jsonl", '{"a": 1}\n{"a": ', r"a\.jsonl, line 2: Expecting value"),
        ("a.csv", "question,answer\na,1\n", r"a\.csv, line 1: .*; a file that .* needs one JSON object per line$"),
        ("a.jsonl", '["a"]\n', r"a\.jsonl, line 1: not a JSON object"),
        ("a.jsonl", "[" * 200_000, r"a\.jsonl, line 1: "),
        ("a.jsonl", b"\xff", r"a\.jsonl cannot be read: 'utf-8' codec can't decode"),
        ("a.jsonl.gz", "plain", r"a\.jsonl\.gz cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(LINES.encode(), mtime=0)[:-9],
            r"a\.jsonl\.gz cannot be read: Compressed file ended",
        ),
        ("a.parquet", "PAR1", r"a\.parquet cannot be read: Parquet"),
        ("a.parquet", "", r"a\.parquet cannot be read: Parquet"),
    ],
)
def test_a_bad_file_is_named_with_the_line_that_is_wrong(
    tmp_path: Path, name: str, content: str | bytes, cause: str
) -> None:
    with pytest.raises(RecipeError, match=cause) as caught:
        list(read_rows(written(tmp_path / name, content)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.jsonl.gz", "absent.parquet"])
def test_an_absent_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"task file .*{name} cannot be read: .*No such file or directory"):
        list(read_rows(tmp_path / name))


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    written(tmp_path / "data" / "train.jsonl", LINES)
    written(tmp_path / "data" / "test.jsonl", LINES)
    with pytest.raises(
        RecipeError, match=r"data, split tset cannot be loaded: no such split; there are 'train', 'test'"
    ):
        list(read_rows(Dataset(dataset=str(tmp_path / "data"), split="tset")))


def test_a_data_set_with_a_loading_script_is_refused_and_the_script_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    written(tmp_path / "scripted" / "scripted.py", f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(RecipeError, match=r"scripted, split train cannot be loaded: Dataset scripts are no longer"):
        list(read_rows(Dataset(dataset=str(tmp_path / "scripted"), split="train")))
    assert not ran.exists()


def test_a_hub_that_cannot_be_reached_says_what_to_give_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        RecipeError, match=r"data set no/where \(main\), split test cannot be reached .*; give a folder"
    ):
        list(read_rows(Dataset(dataset="no/where", split="test", config="main")))


def test_a_place_is_told_in_the_units_of_its_source() -> None:
    assert place(Path("a.jsonl"), 3) == "task file a.jsonl, line 3"
    assert place(Path("a.parquet"), 3) == "task file a.parquet, row 3"
    assert place(Dataset(dataset="openai/gsm8k", split="test", config="main"), 3).endswith("(main), split test, row 3")


def test_the_first_key_with_a_value_is_picked() -> None:
    assert pick({"b": 2, "a": None}, ("a", "b"), "here") == 2
    with pytest.raises(RecipeError, match=r"^here: none of the keys a, b; it has c, d$"):
        pick({"c": 1, "d": 2}, ("a", "b"), "here")
