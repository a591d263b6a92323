"""Results of lm-evaluation-harness: rows as version 0.4.13 writes them, paired by their hashes or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lensrl.errors import RecipeError
from lensrl.recipe import HarnessTask, Samples
from lensrl.tasks.harness import Harness

QUESTIONS = ["1+1", "2+2", "3+3", "4+4"]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(number: int, question: str, values: Mapping[str, Any], *, prompt: str = "Q: ", kept: str = "none") -> dict:
    """A row as the harness logs it: its hashes are of the doc as JSON, of the first prompt, and of the target."""
    doc, target = {"question": question}, str(eval(question))  # sums of this file alone
    return {
        "doc_id": number, "doc": doc, "target": target, "arguments": {"gen_args_0": {"arg_0": prompt + question}},
        "resps": [["2"]], "filtered_resps": ["2"], "filter": kept, "metrics": [*values],
        "doc_hash": sha(json.dumps(doc, indent=2)), "prompt_hash": sha(prompt + question), "target_hash": sha(target),
        **values,
    }  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def rows(scores: Sequence[float], questions: Sequence[str] = QUESTIONS, **more: Any) -> list[dict]:
    return [row(i, q, {"exact_match": s}, **more) for i, (q, s) in enumerate(zip(questions, scores, strict=True))]


def opened(*files: Path, **settings: Any) -> Harness:
    return Harness(HarnessTask(name="harness", base=[Samples(file=file) for file in files], **settings))


def test_items_are_paired_by_their_hashes_whatever_their_order(tmp_path: Path) -> None:
    base = opened(write(tmp_path / "base.jsonl", rows([0, 1, 0, 1])))
    shuffled = [rows([1, 0.5, 0, 1])[i] for i in (2, 0, 3, 1)]
    found = base.read([Samples(file=write(tmp_path / "full.jsonl", shuffled))])
    assert base.base.score.tolist() == [0, 1, 0, 1]
    assert found.score.tolist() == [1, 0.5, 0, 1]
    assert found.item == base.base.item == [f"{i}-{r['doc_hash'][:12]}" for i, r in enumerate(rows([0] * 4))]
    assert base.base.benchmark == ["harness"] * 4


def test_a_question_that_a_benchmark_asks_twice_is_two_items(tmp_path: Path) -> None:
    base = opened(write(tmp_path / "base.jsonl", rows([0, 1, 0], ["1+1", "2+2", "1+1"])))
    found = base.read([Samples(file=write(tmp_path / "full.jsonl", rows([1, 1, 0.5], ["1+1", "2+2", "1+1"])))])
    assert found.score.tolist() == [1, 1, 0.5]
    assert len({*found.key}) == 3


def test_benchmarks_have_the_names_of_the_harness(tmp_path: Path) -> None:
    names = ["samples_gsm8k_2026-01-02T10-11-12.345678.jsonl", "samples_leaderboard_math_2026-01-02T10-11-12.1.jsonl"]
    files = [write(tmp_path / name, rows([0, 1], QUESTIONS[:2])) for name in names]
    assert opened(*files).base.benchmark == ["gsm8k"] * 2 + ["leaderboard_math"] * 2
    assert opened(files[0]).base.digest != opened(files[1]).base.digest


def test_metric_and_filter_are_chosen_where_there_are_several(tmp_path: Path) -> None:
    several = [row(i, q, {"acc": 0, "acc_norm": 1, "text": "no number"}) for i, q in enumerate(QUESTIONS)]
    file = write(tmp_path / "acc.jsonl", several)
    with pytest.raises(RecipeError, match=r"2 metrics: acc, acc_norm; choose one: --metric acc"):
        opened(file)
    with pytest.raises(RecipeError, match=r"no metric 'acc_nom'; did you mean 'acc_norm'\?"):
        opened(file, metric="acc_nom")
    assert opened(file, metric="acc_norm").base.score.tolist() == [1] * 4
    gsm8k = rows([0, 0, 0, 0], kept="strict-match") + rows([1, 1, 1, 1], kept="flexible-extract")
    file = write(tmp_path / "gsm8k.jsonl", gsm8k)
    with pytest.raises(RecipeError, match=r"2 filters: strict-match, flexible-extract; choose one: --filter strict-ma"):
        opened(file)
    assert opened(file, filter="flexible-extract").base.score.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("theirs", "complaint"),
    [
        (rows([1, 1, 1], QUESTIONS[:3]), "lack an item of .*base.jsonl: doc_hash "),
        (rows([1] * 5, [*QUESTIONS, "5+5"]), "hold an item that .*base.jsonl lacks: doc_id 4"),
        (rows([1] * 4, prompt="Question: "), "doc_id 0 .* has another prompt_hash than in .*same prompts"),
        (rows([1] * 4) + rows([1] * 4), "doc_id 0 comes twice: the file holds two evaluations"),
        (rows([1] * 4, kept="strict-match"), "no row has the filter 'none'"),
        (rows([1, float("nan"), 1, 1]), "exact_match of doc_id 1 is nan, which is no finite number"),
        ([{"doc_id": 0, "exact_match": 1.0}], "line 1 has no doc_hash: give a samples_"),
        ([rows([1] * 4)[0] | {"doc_id": "0"}], "line 1: doc_id is .0., and the harness writes a whole number"),
    ],
)  # fmt: skip
def test_what_has_no_pair_is_refused(tmp_path: Path, theirs: list[dict], complaint: str) -> None:
    base = opened(write(tmp_path / "base.jsonl", rows([0, 1, 0, 1])))
    with pytest.raises(RecipeError, match=complaint):
        base.read([Samples(file=write(tmp_path / "full.jsonl", theirs))])


def test_as_many_files_as_the_base_has(tmp_path: Path) -> None:
    base, file = opened(write(tmp_path / "base.jsonl", rows([0, 1, 0, 1]))), tmp_path / "base.jsonl"
    with pytest.raises(RecipeError, match="2 files, and the base has 1"):
        base.read([Samples(file=file), Samples(file=file)])


def test_files_of_the_harness_itself_give_its_own_scores() -> None:
    """Two runs of lm-eval 0.4.13 on 40 sums with small models; it reported exact_match 0.325 and 0.475."""
    base, full = sorted((Path(__file__).parent / "samples").glob("samples_*.jsonl"))
    harness = opened(base)
    assert harness.base.benchmark == ["tiny_add"] * 40
    assert harness.base.score.mean() == pytest.approx(0.325)
    assert harness.read([Samples(file=full)]).score.mean() == pytest.approx(0.475)
    first = json.loads(base.read_text().splitlines()[0])
    assert first["doc_hash"] == sha(json.dumps(first["doc"], indent=2))  # as `row` above hashes
