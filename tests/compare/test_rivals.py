"""The rivals of a study that really ran, against models built by hand, finite differences, and steps really taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lensrl import LensrlError, Study, open_study, verify
from lensrl.compare import sensitivity
from lensrl.compare.rivals import COLUMNS, RIVALS_FILE, base_rivals
from lensrl.compare.sensitivity import bypass, first_order, metric_gradients
from lensrl.models.base import Base
from lensrl.models.blocks import find_blocks
from lensrl.models.evaluate import evaluate
from lensrl.models.references import answer_mean, reference_logprobs, references
from lensrl.tasks import Item, evaluation_items, load_task
from tests.conftest import SMALL
from tests.models.test_blocks import CONFIGURATIONS, random_model
from tests.reseal import resealed

UNEVEN = [Item("a", "47+38=", "85", "b"), Item("b", "10+10=", "20", "b"), Item("c", "99+99=", "198", "c")]


@pytest.fixture(scope="module")
def folder(small_study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small study with its rivals beside it."""
    folder = tmp_path_factory.mktemp("rivals") / "small"
    shutil.copytree(small_study_folder, folder)
    with open_study(folder) as study:
        base_rivals(study)
    return folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "load_base", lambda *_: pytest.fail("measured again"))


def metric(model: nn.Module, base: Base, items: list[Item]) -> float:
    """The mean over benchmarks of the mean over items of the mean over tokens, one sequence at a time."""
    means: dict[str, list[float]] = {}
    for item in items:
        prompt = base.tokenizer(item.prompt)["input_ids"]
        answer = [*base.tokenizer(item.written[0])["input_ids"], base.tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        means.setdefault(item.benchmark, []).append(
            float(np.mean([float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]))
        )
    return float(np.mean([np.mean(values) for values in means.values()]))


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_a_bypassed_block_is_a_block_that_is_not_there(family: str) -> None:
    model = random_model(CONFIGURATIONS[family]).eval()
    blocks, ids = find_blocks(model), torch.arange(1, 13).reshape(2, 6)
    with torch.no_grad():
        before = model(ids).logits
        with bypass(model, blocks, 1):
            bypassed = model(ids).logits
        assert torch.equal(model(ids).logits, before), "the hook is gone"
        stack = model.get_submodule(blocks.prefix)
        assert isinstance(stack, nn.ModuleList)
        del stack[1]
        model.config.num_hidden_layers -= 1
        without = model(ids, use_cache=False).logits
    torch.testing.assert_close(bypassed, without, atol=1e-5, rtol=0)
    assert not torch.allclose(bypassed, before, atol=1e-4)


def test_the_bypass_column_is_what_a_model_without_the_block_scores(base: Base, folder: Path) -> None:
    with open_study(folder) as study:
        table = base_rivals(study)
        stored = study["base"].scores_by_item()["reference_logprob"].mean()
    items = evaluation_items(load_task(SMALL), SMALL)
    for layer in (0, 3):
        model = base.fresh()
        del model.get_submodule("model.layers")[layer]  # pyright: ignore[reportIndexIssue]
        model.config.num_hidden_layers -= 1
        model.config.use_cache = False
        without = reference_logprobs(model, base.prompts, items, batch=16).mean(dtype=np.float64)
        assert table.loc[layer, "bypass_logprob"] == pytest.approx(stored - without, abs=1e-5)


def test_the_gradient_is_the_slope_along_any_direction(base: Base) -> None:
    model = base.fresh().double()  # pyright: ignore[reportCallIssue]
    gradients = metric_gradients(model, base.blocks, base.prompts, UNEVEN, batch=2)
    assert {base.blocks.part(name) for name in gradients} == set(range(8))
    rng = torch.Generator().manual_seed(0)
    for layer in (0, 4, 7):
        inside = [name for name in gradients if base.blocks.layer(name) == layer]
        direction = {name: torch.randn(gradients[name].shape, generator=rng).double() for name in inside}
        slope = float(sum((gradients[name] * direction[name]).sum() for name in inside))
        values = []
        for step in (3e-4, -3e-4):
            moved = base.fresh().double()  # pyright: ignore[reportCallIssue]
            with torch.no_grad():
                for name in inside:
                    moved.get_parameter(name).add_(step * direction[name])
            values.append(metric(moved, base, UNEVEN))
        norm = float(sum(gradients[name].square().sum() for name in inside)) ** 0.5
        # a random direction's slope is of the size of the norm; norms of activations are fp32 in any model
        assert slope == pytest.approx((values[0] - values[1]) / 6e-4, abs=2e-4 * norm)


def test_gradients_come_from_logits_at_the_answers_alone(base: Base) -> None:
    model, whole = base.fresh(), base.fresh()
    widths: list[int] = []
    model.get_submodule("lm_head").register_forward_hook(lambda *given: widths.append(given[1][0].shape[1]))
    gradients = metric_gradients(model, base.blocks, base.prompts, UNEVEN, batch=3)
    teacher = references(base.prompts, UNEVEN)
    assert widths == [int(teacher.answer.any(0).sum())]
    assert widths[0] < teacher.answer.shape[1]
    logprobs = whole(teacher.ids, attention_mask=teacher.mask).logits[:, :-1].log_softmax(-1)
    means = answer_mean(logprobs.gather(-1, teacher.ids[:, 1:, None]).squeeze(-1), teacher.answer)
    (means * torch.tensor([0.25, 0.25, 0.5])).sum().backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole.get_parameter(name).grad, atol=1e-6, rtol=1e-5)


def test_gradients_do_not_depend_on_the_batch(base: Base) -> None:
    done: list[tuple[int, int]] = []
    whole = metric_gradients(base.fresh(), base.blocks, base.prompts, UNEVEN, batch=3)
    parts = metric_gradients(
        base.fresh(), base.blocks, base.prompts, UNEVEN, batch=1, on_batch=lambda *of: done.append(of)
    )
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4)
    assert done == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("run_name", "layer"), [("layer-3", 3), ("full-rl", 0), ("full-rl", 7)])
def test_the_first_order_change_is_what_a_thousandth_of_the_step_does(
    base: Base, small_study: Study, run_name: str, layer: int
) -> None:
    items = evaluation_items(load_task(SMALL), SMALL)
    run = small_study[run_name]
    gradients = metric_gradients(base.fresh(), base.blocks, base.prompts, items, batch=64)
    predicted = first_order(run, layer, gradients)
    before, after = (base.fresh().double() for _ in range(2))  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        for name, change in run.deltas.exact(layer).values():
            after.get_parameter(name).add_(1e-3 * torch.from_numpy(change.delta).double())
    actual = metric(after, base, items) - metric(before, base, items)
    assert actual / (1e-3 * predicted) == pytest.approx(1, abs=0.03)


def test_the_columns_are_those_of_the_study(base: Base, folder: Path) -> None:
    with open_study(folder) as study:
        table = base_rivals(study)
        curve, norms = study["full-rl"].training(), study["base"].layer_delta_norms()
        items = evaluation_items(load_task(SMALL), SMALL)
        gradients = metric_gradients(base.fresh(), base.blocks, base.prompts, items, batch=64)
        changes = [first_order(study["full-rl"], layer, gradients) for layer in range(8)]
    assert list(table.columns) == COLUMNS
    assert table["layer"].tolist() == list(range(8))
    blocks = base.model.get_submodule("model.layers")
    assert table["parameters"].tolist() == [sum(p.numel() for p in block.parameters()) for block in blocks.children()]
    np.testing.assert_allclose(table["weight_norm"], norms["base_norm"], rtol=1e-6)
    shares = [curve[f"grad_norm_{layer}"][0] / curve["grad_norm"][0] for layer in range(8)]
    np.testing.assert_allclose(table["rl_gradient_norm"] * table["weight_norm"], shares, rtol=1e-9)
    assert (np.array(shares) > 0).all()
    assert sum(share**2 for share in shares) < 1, "the embedding has its part too"
    np.testing.assert_allclose(table["first_order_full"], changes, rtol=1e-4, atol=1e-7)
    slope = sum(float(g.double().square().sum()) for name, g in gradients.items() if base.blocks.layer(name) == 5)
    assert table["gradient_norm"][5] * table["weight_norm"][5] == pytest.approx(slope**0.5, rel=1e-4)
    assert table["first_order_single"].notna().tolist() == [layer in (0, 3, 7) for layer in range(8)]
    assert table["bypass_score"].isna().all()


def test_seeds_are_averaged_and_runs_that_are_missing_are_nan(copied: Path) -> None:
    with open_study(copied) as study:
        once = base_rivals(study)
    shutil.copy(copied / "layer-3.seed-0.h5", copied / "full-rl.seed-1.h5")
    with resealed(copied / "full-rl.seed-1.h5") as file:
        file.attrs.update({"run": "full-rl", "seed": 1, "run_id": "another"})
    (copied / "layer-7.seed-0.h5").unlink()
    with open_study(copied) as study:
        twice = base_rivals(study)
    assert np.isnan(twice["first_order_single"][7])
    half = (once["first_order_full"][3] + once["first_order_single"][3]) / 2
    assert twice["first_order_full"][3] == pytest.approx(half, rel=1e-4)
    assert twice["rl_gradient_norm"][2] == pytest.approx(once["rl_gradient_norm"][2] / 2)
    assert twice["first_order_full"][5] == pytest.approx(once["first_order_full"][5] / 2, rel=1e-4)


@pytest.mark.usefixtures("never_again")
def test_the_table_is_kept_and_made_again_when_a_run_is_another(folder: Path, copied: Path) -> None:
    with open_study(folder) as study, open_study(copied) as same:
        assert base_rivals(same).equals(base_rivals(study))
    with resealed(copied / "layer-3.seed-0.h5") as file:
        file.attrs["run_id"] = "another"
    with open_study(copied) as study, pytest.raises(pytest.fail.Exception, match="measured again"):
        base_rivals(study)


@pytest.mark.usefixtures("never_again")
def test_sets_of_layers_do_not_enter(copied: Path) -> None:
    (copied / "ends.seed-0.h5").unlink()
    with open_study(copied) as study:
        base_rivals(study)


def spoiled(kept: dict[str, object]) -> list[bytes]:
    """A kept table in the ways in which a file goes wrong."""
    columns = kept["columns"]
    assert isinstance(columns, dict)
    others = [
        {"format": "another"}, {"format_version": 2}, {"sources": {}}, {"surprise": 1}, {"columns": {}},
        {"columns": {"layer": columns["layer"]}},
        {"columns": {name: values[:3] for name, values in columns.items()}},
        {"columns": columns | {"layer": [7, *range(7)]}},
        {"columns": columns | {"parameters": [None] * 8}},
        {"columns": columns | {"weight_norm": ["much"] * 8}},
    ]  # fmt: skip
    whole = json.dumps(kept).encode()
    return [b"", b"nothing", b"\xff\xfe", b"[]", b"[" * 10**5, whole[:-40]] + [
        json.dumps(kept | other).encode() for other in others
    ]


def test_a_damaged_or_foreign_file_is_replaced(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / RIVALS_FILE
    with open_study(copied) as study:
        table = base_rivals(study)
        good = path.read_bytes()
        monkeypatch.setattr(sensitivity, "measure_layers", lambda *_, **__: table.drop(columns="rl_gradient_norm"))
        for wrong in spoiled(json.loads(good)):
            path.write_bytes(wrong)
            assert np.allclose(base_rivals(study), table, equal_nan=True), wrong[:60]
            assert json.loads(path.read_bytes())["columns"] == json.loads(good)["columns"], wrong[:60]


def test_the_file_is_json_for_anybody_and_no_run_of_the_study(folder: Path, small_study_folder: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    kept = json.loads((folder / RIVALS_FILE).read_text(), parse_constant=refuse)
    assert kept["columns"]["bypass_score"] == [None] * 8
    with open_study(folder) as study, open_study(small_study_folder) as before:
        assert study.broken == {}
        assert study.runs.table().equals(before.runs.table())
    assert {(v.path.name, v.status) for v in verify(folder)} == {(p.name, "good") for p in folder.rglob("*.h5")}
    assert not list(folder.glob(".*"))


def test_the_sampled_score_is_measured_when_asked_for_and_then_kept(
    base: Base, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, int, int]] = []
    with open_study(copied) as study:
        table = base_rivals(study, sampled=True, on_progress=lambda *of: said.append(of))
        expected = study["base"].score
        task, items = load_task(SMALL), evaluation_items(load_task(SMALL), SMALL)
        model = base.fresh()
        with bypass(model, base.blocks, 1):
            without = evaluate(model, base.prompts, task, items, SMALL).score
        assert without is not None
        assert table.loc[1, "bypass_score"] == pytest.approx(expected - without.mean(), abs=1e-6)
        assert table["bypass_score"].notna().all()
        steps = [(name, layer + 1, 8) for name in ("bypass", "bypass, sampled") for layer in range(8)]
        assert said == [*steps, ("gradient", 48, 48)]
        monkeypatch.setattr(sensitivity, "load_base", lambda *_: pytest.fail("measured again"))
        assert base_rivals(study).equals(table)
        assert base_rivals(study, sampled=True).equals(table)


def test_vllm_cannot_leave_out_a_layer(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied / RIVALS_FILE).unlink(missing_ok=True)
    monkeypatch.setattr(Study, "recipe", SMALL.model_copy(update={"generation": "vllm"}))
    with open_study(copied) as study, pytest.raises(LensrlError, match="vLLM, which cannot leave out a layer"):
        base_rivals(study, sampled=True)


def test_another_base_is_refused(base: Base, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = base.weights["model.norm.weight"] + 1
    other = Base("other", base.fresh({"model.norm.weight": norm}), base.tokenizer, base.blocks)
    monkeypatch.setattr(sensitivity, "load_base", lambda *_: other)
    (copied / RIVALS_FILE).unlink()
    with open_study(copied) as study, pytest.raises(LensrlError, match="made from another base model"):
        base_rivals(study)


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, lensrl.compare.rivals, lensrl.compare.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
