"""Curves while they grow: `progress.jsonl`, TensorBoard and wandb hold the numbers of the run's file.

Entropy and KL are those of the model's own logits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lensrl import LensrlError, Run, Study, open_study, run_study
from lensrl.models.base import Base
from lensrl.recipe import Recipe
from lensrl.recipe.runs import RunSpec
from lensrl.store.file.exact import add
from lensrl.train import trackers
from lensrl.train.curve import TrainingCurve
from lensrl.train.trackers import PROGRESS, check_trackers, followed
from lensrl.train.watch import NoWatcher

RECIPE = Recipe.model_validate({
    "model": "tiny:qwen3", "task": {"name": "arithmetic"}, "layers": [], "report_to": ["tensorboard", "wandb"],
    "rl": {"steps": 2, "prompts_per_step": 4, "completions_per_prompt": 4, "max_completion_tokens": 5,
           "kl_beta": 0.05, "learning_rate": 1e-3},
    "evaluation": {"items": 4, "samples": 1},
    "store": {"probe_items": 1, "training_completions": 16, "snapshots": [0.5]},
})  # fmt: skip


class Lines(NoWatcher):
    """Keeps the lines of `progress.jsonl` as they are after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[list[str]] = []

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        self.seen.append((self.folder / PROGRESS).read_text().splitlines())


@pytest.fixture(scope="module")
def followed_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Lines]:
    folder = tmp_path_factory.mktemp("followed") / "study"
    lines = Lines(folder / ".full-rl.seed-0.h5.training")
    run_study(RECIPE, folder, lines).close()
    return open_study(folder), lines


def test_progress_has_a_line_a_step_and_goes_when_the_run_is_complete(followed_study: tuple[Study, Lines]) -> None:
    study, lines = followed_study
    assert [len(seen) for seen in lines.seen] == [1, 2]
    curve = study["full-rl"].training()
    for step, line in enumerate(lines.seen[-1]):
        row = json.loads(line)
        assert row.pop("step") == step + 1
        assert row == {name: curve.loc[step, name] for name in row}
        assert {"reward_mean", "grad_norm", "entropy", "kl"} <= row.keys()
    assert not lines.folder.exists()


def test_tensorboard_holds_the_curve_of_the_run(followed_study: tuple[Study, Lines]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    study, _ = followed_study
    events = accumulator.EventAccumulator(str(study.path / "tensorboard" / "full-rl.seed-0"))
    events.Reload()
    curve = study["full-rl"].training()
    for name in ("reward_mean", "loss", "entropy", "kl", "step_time"):
        found = events.Scalars(f"training/{name}")
        assert [event.step for event in found] == [1, 2]
        np.testing.assert_allclose([event.value for event in found], curve[name], rtol=1e-6)


def test_wandb_gets_a_run_of_its_own_in_the_group_of_the_study(followed_study: tuple[Study, Lines]) -> None:
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    study, _ = followed_study
    (path,) = (study.path / "wandb").glob("offline-run-*/*.wandb")
    records = [proto.Record.FromString(raw) for raw in log_records(path.read_bytes())]
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.project, run.run_group, run.display_name) == ("lensrl", "study", "full-rl.seed-0")
    rows = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    found = [{"/".join([item.key, *item.nested_key]).strip("/"): item.value_json for item in row.item} for row in rows]
    rewards = [json.loads(row["training/reward_mean"]) for row in found]
    assert rewards == study["full-rl"].training()["reward_mean"].tolist()
    assert any(record.WhichOneof("record_type") == "exit" for record in records)  # it was finished


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, which wandb writes behind a header of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # no room for a header at the end of a block
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


def test_trackers_are_no_part_of_a_study(followed_study: tuple[Study, Lines]) -> None:
    study, _ = followed_study
    assert study.recipe.report_to == []
    assert RECIPE.conflict(study.recipe) is None
    assert "report_to" not in study["full-rl"].recipe


def test_entropy_and_kl_are_those_of_the_models_own_logits(followed_study: tuple[Study, Lines], base: Base) -> None:
    """All completions of both steps are kept: step 1 was sampled from the base, step 2 from the snapshot after it."""
    study, _ = followed_study
    run = study["full-rl"]
    policies = {1: base.fresh(), 2: base.fresh(after_snapshot(run, base, 1))}
    for step, policy in policies.items():
        rows = run.training_completions().query("step == @step")
        entropy, kl, tokens = 0.0, 0.0, 0
        for row in rows.to_dict("records"):
            prompt, said = base.tokenizer.encode(row["prompt"]), base.tokenizer.encode(row["completion"])
            said += [base.tokenizer.eos_token_id] * row["finished"]
            assert len(said) == row["tokens"]
            log_p, log_base = (
                m(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1].detach().log_softmax(-1)
                for m in (policy, base.fresh())
            )
            entropy += float(-(log_p.exp() * log_p).sum())
            at = torch.arange(len(said)), torch.tensor(said)
            log_r = log_base[at] - log_p[at]
            kl += float((log_r.exp() - 1 - log_r).sum())
            tokens += len(said)
        assert run.training().loc[step - 1, "entropy"] == pytest.approx(entropy / tokens, rel=1e-3)
        assert run.training().loc[step - 1, "kl"] == pytest.approx(kl / tokens, rel=1e-2, abs=1e-9)
    assert run.training()["kl"].iloc[1] > 0


def after_snapshot(run: Run, base: Base, step: int) -> dict[str, torch.Tensor]:
    weights = dict(base.weights)
    for part in run.snapshots[step]:
        for name, change in run.snapshots[step].exact(part).values():
            weights[name] = torch.from_numpy(add(base.weights[name].numpy(), change))
    return weights


def test_a_tracker_that_is_not_installed_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(LensrlError, match=r"report_to = 'wandb' needs a package: pip install 'lensrl\[wandb\]'"):
        check_trackers(["wandb"])
    with pytest.raises(LensrlError, match="tensorboard"):
        run_study(RECIPE, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_run_that_goes_on_has_all_rows_in_its_file_and_new_ones_in_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[object] = []

    class Kept:
        def __init__(self, study: Path, run: str, config: object, first: int) -> None:
            logged.append((run, first))

        def log(self, step: int, row: object) -> None:
            logged.append(step)

        def finish(self) -> None:
            logged.append("finished")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Kept)
    curve = TrainingCurve(2, reward_mean=[0.1, math.nan])
    with followed(["tensorboard"], tmp_path, "run", tmp_path, {}) as show:
        for reward in (0.3, 0.4):
            curve.reward_mean.append(reward)
            show(curve)
    assert logged == [("run", 3), 3, 4, "finished"]
    rows = [json.loads(line) for line in (tmp_path / PROGRESS).read_text().splitlines()]
    assert rows == [{"step": s, "reward_mean": r} for s, r in enumerate([0.1, None, 0.3, 0.4], 1)]
