"""Where full RL gains nothing, the study says why and stops before its single layers; references that fail, too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from lensrl import LensrlError, open_run, run_study
from lensrl.errors import NoGain
from lensrl.measures.gains import Interval
from lensrl.recipe import Recipe, load_recipe
from lensrl.tasks import Item
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.tasks.gold import described, failed_references
from lensrl.train.engine import Here
from lensrl.train.estimate import estimate_study
from lensrl.train.job import Job
from lensrl.train.no_gain import LEARNS, cause_of, why_no_gain
from lensrl.train.preflight import check_several
from lensrl.train.watch import NoWatcher, Watcher
from tests.cli.typed import lensrl
from tests.conftest import SMALL
from tests.store.synthetic import add_run, solved_by_half

NOTHING = Interval(0.0, -0.1, 0.1)
WORSE = Interval(-0.2, -0.3, -0.1)


def curve(reward: list[float], *, equal: float = 0.0, cut: float = 0.0, gradient: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"reward_mean": reward, "zero_spread_share": equal, "truncated_share": cut,
                         "grad_norm": gradient})  # fmt: skip


FLAT, RISING = [0.5, 0.52, 0.48, 0.5, 0.51] * 4, [0.1 + 0.03 * step for step in range(20)]


@pytest.mark.parametrize(
    ("curves", "gain", "references", "expected"),
    [
        ([curve(FLAT, equal=0.97)], NOTHING, {}, "all rewards were equal (mean 0.50)"),
        ([curve([0.01] * 20, equal=0.97)], NOTHING, {}, "too hard for this model"),
        ([curve([0.99] * 20, equal=0.97)], NOTHING, {}, "too easy for this model"),
        ([curve(FLAT, cut=0.98, equal=1.0)], NOTHING, {}, "raise rl.max_completion_tokens"),
        ([curve(FLAT, gradient=0.0)], NOTHING, {}, "The gradient was 0 in every step"),
        ([curve(FLAT)], NOTHING, {"judged": 20, "failed": ["a"] * 3}, "3 of 20 references fail their own judge"),
        ([curve(FLAT), curve(FLAT)], NOTHING, {}, "did not rise (0.500 to 0.502 in 20 steps): more rl.steps"),
        ([curve(RISING)], NOTHING, {}, "it does not carry over"),
        ([curve(RISING)], Interval(0.02, -0.01, 0.05), {}, "more evaluation.items or samples may show it"),
        ([curve([0.5])], WORSE, {}, "did not rise"),
    ],
)  # fmt: skip
def test_the_cause_is_what_the_curves_show(
    curves: list[pd.DataFrame], gain: Interval, references: dict[str, object], expected: str
) -> None:
    assert expected in cause_of(curves, gain, references)


@pytest.mark.parametrize("control", ["random", "sft"])
def test_the_rewards_of_a_control_explain_nothing(control: str) -> None:
    said = cause_of([curve(FLAT, cut=1.0, equal=1.0, gradient=0.0)], NOTHING, {}, LEARNS[control])
    assert f"'{control}'" in said
    assert "max_completion_tokens" not in said


def test_a_gain_is_judged_by_its_interval(tmp_path: Path) -> None:
    assert why_no_gain(tmp_path, [0]) is None  # nothing is there
    add_run(tmp_path, "base", solved_by_half(5, 5))
    assert why_no_gain(tmp_path, [0]) is None
    add_run(tmp_path, "full-rl", solved_by_half(5, 6))
    assert "full RL gained nothing certain: +0.025 [-0.026, +0.076]" in str(why_no_gain(tmp_path, [0]))
    add_run(tmp_path, "full-rl", solved_by_half(15, 15), seed=1)
    assert why_no_gain(tmp_path, [1]) is None
    add_run(tmp_path, "full-rl", None, seed=2, status="diverged", reason="the loss is not finite at step 3")
    assert why_no_gain(tmp_path, [2]) == (
        "full RL diverged: the loss is not finite at step 3; a smaller rl.learning_rate may help"
    )


QUICK = """
model = "tiny:qwen3"
layers = [7]
task = "arithmetic"
[rl]
steps = 1
max_completion_tokens = 5
learning_rate = 1e-9
[evaluation]
items = 6
samples = 1
[store]
probe_items = 1
"""


def test_a_study_without_gain_stops_before_its_layers_and_goes_on_when_told(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    done = lensrl("run", "quick.toml", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "full RL gained nothing certain: +0.000" in done.stdout
    assert "The other run is not made: the same command with --go-on goes on" in done.stdout
    assert {path.name for path in (tmp_path / "quick").glob("*.h5")} == {"base.h5", "full-rl.seed-0.h5"}
    assert lensrl("run", "quick.toml", cwd=tmp_path).returncode == 1  # nothing is trained again, and nothing new
    done = lensrl("run", "quick.toml", "--go-on", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quick" / "layer-7.seed-0.h5").exists()
    with open_run(tmp_path / "quick" / "base.h5") as run:
        assert run.provenance["references"] == {"judged": 6, "failed": []}
    recipe = load_recipe(tmp_path / "quick.toml").model_copy(update={"on_no_gain": "go on"})
    assert recipe.conflict(load_recipe(tmp_path / "quick.toml")) is None  # no part of the study


def test_a_layer_may_be_made_beside_full_rl_and_the_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK.replace("[7]", "[0, 7]"))
    begun: list[str] = []

    class Beside:
        """Makes the base, then the last of all runs before full RL, as several workers may."""

        def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
            begun.extend(job.spec.name for job in jobs)
            base, full, *others = jobs
            Here().make([base, others.pop(), full, *others], watcher)

    with pytest.raises(NoGain, match=r"full RL gained nothing certain.* The other run is not made"):
        run_study(load_recipe(tmp_path / "quick.toml"), tmp_path / "quick", engine=Beside(), go_on=False)
    assert begun == ["base", "full-rl", "layer-0", "layer-7"]
    made = {path.name for path in (tmp_path / "quick").glob("*.h5")}
    assert made == {"base.h5", "full-rl.seed-0.h5", "layer-7.seed-0.h5"}


OWN = """
from lensrl.tasks import Item

class Sums:
    def items(self, split):
        wrong = {WRONG} if split == "test" else 0
        return [Item(f"{n}", f"{n}+1=", str(n + 1 + (n < wrong)), "sums") for n in range(40)]

    def reward(self, item, completion):
        return float(completion.strip() == str(int(item.id) + 1))

    def score(self, item, completion):
        return self.reward(item, completion)
"""


class Lines(NoWatcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, line: str) -> None:
        self.lines.append(line)


def test_references_that_fail_are_counted_named_and_refused(tmp_path: Path) -> None:
    recipe_of = {}
    for wrong in (2, 3):
        (tmp_path / f"sums{wrong}.py").write_text(OWN.replace("{WRONG}", str(wrong)))
        (tmp_path / f"{wrong}.toml").write_text(QUICK.replace('"arithmetic"', f'{{ name = "sums{wrong}.py:Sums" }}')
                                                .replace("items = 6", "items = 40"))  # fmt: skip
        recipe_of[wrong] = load_recipe(tmp_path / f"{wrong}.toml")
    watcher = Lines()
    run_study(recipe_of[2], tmp_path / "two", watcher, only="base").close()
    assert watcher.lines == ["2 of 40 references (5.0%) fail their own judge: sums 0, sums 1"]
    with open_run(tmp_path / "two" / "base.h5") as run:
        assert run.provenance["references"] == {"judged": 40, "failed": ["sums/0", "sums/1"]}
    with pytest.raises(
        LensrlError, match=r"3 of 40 references \(7\.5%\) fail their own judge: .*check_references = false"
    ):
        run_study(recipe_of[3], tmp_path / "three", only="base")
    assert not (tmp_path / "three").exists()
    allowed = recipe_of[3].model_copy(update={"check_references": False})
    run_study(allowed, tmp_path / "three", only="base").close()
    assert (tmp_path / "three" / "base.h5").exists()


def test_a_reference_is_judged_by_its_own_task() -> None:
    class Sums(Arithmetic):
        def score(self, item: Item, completion: str) -> float:
            return float(completion == str(sum(map(int, item.id.split("+")))))

    good = Arithmetic().items("test")[:3]
    bad = Item("1+1", "1+1=", "3", "arithmetic")
    assert failed_references(Sums(), [*good, bad]) == [bad]
    assert described([bad] * 5, 10) == (
        "5 of 10 references (50.0%) fail their own judge: arithmetic 1+1, arithmetic 1+1, arithmetic 1+1 and 2 more"
    )
    games = Corridor(Recipe.model_validate({"model": "m", "task": {"name": "corridor"}}).task)  # type: ignore[arg-type]
    items = games.items("test")
    lost = Item(items[0].id, items[0].prompt, ("left\n",), "corridor")
    assert failed_references(games, [*items[:4], lost]) == [lost]


def test_a_benchmark_of_one_item_is_refused_before_training(tmp_path: Path) -> None:
    items = Arithmetic().items("test")
    check_several(items[:2])
    with pytest.raises(LensrlError, match="benchmark 'arithmetic' has a single held-out item"):
        check_several(items[:1])
    one = SMALL.model_copy(update={"evaluation": SMALL.evaluation.model_copy(update={"items": 1})})
    with pytest.raises(LensrlError, match="has a single held-out item"):
        run_study(one, tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_an_estimate_measures_steps_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    found = estimate_study(load_recipe(tmp_path / "quick.toml"), tmp_path / "quick")
    assert [spec.name for spec in found.runs] == ["base", "full-rl", "layer-7"]
    assert {*found.step} == {"full-rl", "layer-7"}
    assert min(found.step.values()) > 0
    assert found.seconds == pytest.approx(3 * found.scoring + sum(found.step.values()))  # one step a run
    assert not (tmp_path / "quick").exists()
    done = lensrl("run", "quick.toml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 to make: base, full-rl, layer-7" in done.stdout
    assert not (tmp_path / "quick").exists()
    assert json.loads(json.dumps(found.step)) == found.step
