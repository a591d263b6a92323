"""Recipes: what is read, what is refused, and with which words."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from lensrl.errors import RecipeError
from lensrl.recipe import LayerSet, MathTask, Recipe, load_recipe, read_kept_recipe

RECIPES = sorted((Path(__file__).parents[2] / "runs").glob("*.toml"))
MINIMAL = 'model = "tiny:qwen3"\n[task]\nname = "arithmetic"\n'
MATH = 'model = "tiny:qwen3"\n[task]\nname = "math"\ntrain = "data/train.jsonl"\ntest.gsm8k = "../test.jsonl"\n'


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def test_there_are_shipped_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"smoke", "smoke-dr-grpo", "smoke-rloo", "tiny"}


@pytest.mark.parametrize("algorithm", ["dr_grpo", "rloo"])
def test_the_smoke_recipes_differ_in_the_algorithm_alone(algorithm: str) -> None:
    names = ("smoke.toml", f"smoke-{algorithm.replace('_', '-')}.toml")
    grpo, other = (load_recipe(RECIPES[0].parent / name) for name in names)
    assert other.conflict(grpo) == f"rl.algorithm is 'grpo' there and '{algorithm}' here"
    assert other.model_copy(update={"rl": grpo.rl}) == grpo
    assert other.rl.model_copy(update={"algorithm": "grpo"}) == grpo.rl


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo"])
def test_algorithms_are_read(tmp_path: Path, algorithm: str) -> None:
    assert load(tmp_path, f'{MINIMAL}[rl]\nalgorithm = "{algorithm}"\n').rl.algorithm == algorithm
    assert load(tmp_path, MINIMAL).rl.algorithm == "grpo"  # also what recipes from before there was a choice mean


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    recipe = load_recipe(path)
    declared = tomllib.loads(path.read_text(encoding="utf-8"))["model"]
    assert declared.startswith(("tiny:", "data/")) or declared.count("/") == 1  # made beside the recipe, or a hub name
    assert recipe.model in (declared, str((path.parent / declared).resolve()))
    comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert not declared.startswith("data/") or "runs/data" in comment  # without the folder, an error points there


def test_what_the_file_says_is_what_the_recipe_holds(tmp_path: Path) -> None:
    text = f'seeds = [3, 1]\nlayers = [0, 2]\nsets.ends = "0,7"\n{MINIMAL}[rl]\nsteps = 7\n[evaluation]\ntop_p = 0.5\n'
    recipe = load(tmp_path, text)
    assert (recipe.seeds, recipe.layers, recipe.sets) == ([3, 1], [0, 2], {"ends": LayerSet(layers="0,7")})
    assert (recipe.rl.steps, recipe.evaluation.top_p) == (7, 0.5)


@pytest.mark.parametrize(
    ("text", "typed", "meant"),
    [
        (f'layres = "all"\n{MINIMAL}', "layres", "layers"),
        (f"{MINIMAL}[rl]\nstepz = 3\n", "rl.stepz", "rl.steps"),
        (f"{MINIMAL}[evalution]\nitems = 3\n", "evalution", "evaluation"),
        (f'sets.best = {{ layers = "top-1", profil = "tiny" }}\n{MINIMAL}', "sets.best.profil", "sets.best.profile"),
        (f"{MINIMAL}[store]\nprobe_item = 3\n", "store.probe_item", "store.probe_items"),
        (f'{MATH}promt = "x"\n', "task.promt", "task.prompt"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, text: str, typed: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'recipe.toml'}: unknown key {typed!r}; did you mean {meant!r}?"


def test_a_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'zzzzzzzz'; known: model, task, seeds"):
        load(tmp_path, f"zzzzzzzz = 1\n{MINIMAL}")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[task]\nname = "arithmetic"\n', "model"),
        ('model = "tiny:qwen3"\n', "task"),
        ('model = "tiny:qwen3"\n[task]\n', "task.name"),
        ('model = "tiny:qwen3"\n[task]\nname = "math"\ntrain = "x"\n', "task.test"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe.toml: '{key}' is missing"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "key", "given"),
    [
        (f"{MINIMAL}[rl]\nsteps = 0\n", "rl.steps", "0"),
        (f"{MINIMAL}[rl]\nlearning_rate = -1e-6\n", "rl.learning_rate", "-1e-06"),
        (f"{MINIMAL}[rl]\nlearning_rate = nan\n", "rl.learning_rate", "nan"),
        (f"{MINIMAL}[rl]\ncompletions_per_prompt = 1\n", "rl.completions_per_prompt", "1"),
        (f'{MINIMAL}[rl]\nalgorithm = "ppo2"\n', "rl.algorithm", "'ppo2'"),
        (f"{MINIMAL}[evaluation]\ntop_p = 1.5\n", "evaluation.top_p", "1.5"),
        (f'{MINIMAL}[evaluation]\nitems = "many"\n', "evaluation.items", "'many'"),
        (f"seeds = [0, -1]\n{MINIMAL}", "seeds.1", "-1"),
        (f"rl = 3\n{MINIMAL}", "rl", "3"),
    ],
)
def test_a_bad_value_is_shown_with_its_key(tmp_path: Path, text: str, key: str, given: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe.toml: {key}: .+ \(given: {given}\)$"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers = true", "layers cannot be true"),
        ("seeds = [true]", "seeds cannot be true"),
        ("sets = { a = true }", "sets.a: layers cannot be true"),
        ("seeds = [4294967296]", "seeds.0"),
        ("[rl]\nsteps = false", "rl: steps cannot be false"),
        (
            "[rl]\nmax_grad_norm = 'no'",
            "rl.max_grad_norm: Input should be a valid number, unable to parse string as a number, or Input should be "
            "'per-parameter-count' or 'none' (given: 'no')",
        ),
        (
            "[rl]\nalgorithm = 'sft'\nreward = 'random'",
            "reward = 'random' is for RL, and algorithm = 'sft' learns from",
        ),
        ("[rl]\nfrozen_dtype = true", "rl.frozen_dtype: Input should be 'float32' or 'bfloat16'"),
        ('[rl]\nalgorithm = "sft"\nsampler_dtype = "float32"', "rl.sampler_dtype is for training that samples"),
        ("[rl.gigpo]\ngamma = 0.5", "the table gigpo is for algorithm = 'gigpo', and this is 'grpo'"),
        ("[evaluation]\nseed = 99999999999999999999", "evaluation.seed"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f'model = "tiny:qwen3"\ntask = "arithmetic"\n{text}\n')
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{ datset = 'x', split = 'test' }", "unknown key 'task.test.x.datset'"),
        ("{ dataset = 'x' }", "'task.test.x.split' is missing"),
        ("5", "task.test.x: "),
    ],
)
def test_a_wrong_source_of_rows_is_told_in_the_words_of_the_file(tmp_path: Path, source: str, said: str) -> None:
    text = f'model = "tiny:qwen3"\n[task]\nname = "math"\ntrain = "a.jsonl"\ntest = {{ x = {source} }}\n'
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)


def test_a_benchmark_cannot_be_named_train(tmp_path: Path) -> None:
    text = 'model = "m"\n[task]\nname = "math"\ntrain = "a.jsonl"\ntest = { train = "b.jsonl" }\n'
    with pytest.raises(RecipeError, match=r"task\.test: a benchmark cannot be named train"):
        load(tmp_path, text)


def test_a_task_whose_name_is_a_number_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no task 5"):
        load(tmp_path, 'model = "m"\n[task]\nname = 5\n')


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + MINIMAL) == load(tmp_path, MINIMAL)


def test_micro_batches_must_fill_a_step(tmp_path: Path) -> None:
    sizes = "[rl]\nprompts_per_step = 4\ncompletions_per_prompt = 6\nmicro_batch = "
    assert load(tmp_path, f"{MINIMAL}{sizes}12\n").rl.micro_batch == 12
    with pytest.raises(RecipeError, match=r"rl: micro_batch \(7\) must divide the 24 completions of a step"):
        load(tmp_path, f"{MINIMAL}{sizes}7\n")


def test_a_prompt_without_the_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"task: prompt must contain \{question\}"):
        load(tmp_path, f"{MATH}prompt = 'Answer in \\boxed{{}}.'\n")


def test_task_files_are_found_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (folder / "recipe.toml").write_text(MATH, encoding="utf-8")
    task = load_recipe(Path("a/b/recipe.toml")).task
    assert isinstance(task, MathTask)
    assert task.train == folder / "data" / "train.jsonl"
    assert task.test == {"gsm8k": tmp_path / "a" / "test.jsonl"}


def test_a_model_folder_beside_the_recipe_becomes_absolute_and_a_name_stays(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    assert load(tmp_path, MINIMAL.replace("tiny:qwen3", "checkpoint")).model == str(tmp_path / "checkpoint")
    assert load(tmp_path, MINIMAL.replace("tiny:qwen3", "Qwen/Qwen3-1.7B")).model == "Qwen/Qwen3-1.7B"


def test_evaluation_may_be_as_long_as_training(tmp_path: Path) -> None:
    training = f"{MINIMAL}[rl]\nmax_completion_tokens = 9\n"
    assert load(tmp_path, training).evaluation_tokens("gsm8k") == 9
    assert load(tmp_path, f"{training}[evaluation]\nmax_completion_tokens = 4\n").evaluation_tokens("gsm8k") == 4


def test_recipes_that_measure_the_same_do_not_conflict(tmp_path: Path) -> None:
    one = load(tmp_path, MINIMAL)
    runs = "seeds = [1, 2]\nlayers = [3]\nsets.ends = [0, 7]\nlearning_rates = [1e-3]\n"
    other = load(tmp_path, f"{runs}{MINIMAL}[rl]\nsteps = 60\n")
    assert one.conflict(other) is None


@pytest.mark.parametrize(
    ("here", "there", "conflict"),
    [
        (MINIMAL, MINIMAL.replace("qwen3", "other"), "model is 'tiny:other' there and 'tiny:qwen3' here"),
        (f"{MINIMAL}[rl]\nsteps = 5\n", f"{MINIMAL}[rl]\nsteps = 6\n", "rl.steps is 6 there and 5 here"),
        (f"{MINIMAL}[rl]\nmicro_batch = 8\n", MINIMAL, "rl.micro_batch is None there and 8 here"),
        (MATH, f"{MATH}test.amc = 'amc.jsonl'\n", "task.test.amc is '{folder}/amc.jsonl' there and None here"),
    ],
)
def test_the_first_conflicting_setting_is_told(tmp_path: Path, here: str, there: str, conflict: str) -> None:
    assert load(tmp_path, here).conflict(load(tmp_path, there)) == conflict.format(folder=tmp_path)


def test_a_kept_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    recipe = load(tmp_path, MATH)
    kept = tmp_path / "recipe.json"
    kept.write_text(recipe.model_dump_json(), encoding="utf-8")
    assert read_kept_recipe(kept) == recipe


def test_a_recipe_that_an_older_version_kept_samples_as_it_did(tmp_path: Path) -> None:
    recipe, kept = load(tmp_path, MINIMAL), tmp_path / "recipe.json"
    assert recipe.generation == "pieces"
    data = recipe.model_dump(mode="json")
    del data["generation"], data["rl"]["rollout_batch"], data["rl"]["frozen_dtype"]
    kept.write_text(json.dumps(data), encoding="utf-8")
    older = read_kept_recipe(kept)
    assert older.generation == "generate"
    assert recipe.conflict(older) == "generation is 'generate' there and 'pieces' here"
    assert load(tmp_path, 'generation = "generate"\n' + MINIMAL).conflict(older) is None


@pytest.mark.parametrize("content", ["", "{", '{"model": "tiny:qwen3"}'])
def test_a_damaged_kept_recipe_is_named(tmp_path: Path, content: str) -> None:
    kept = tmp_path / "recipe.json"
    kept.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.json"):
        read_kept_recipe(kept)


@pytest.mark.parametrize("content", [b"model = \n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipe\.toml is not a TOML file"):
        load_recipe(path)


def test_an_absent_recipe_says_what_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at .*absent\.toml; recipes are TOML files"):
        load_recipe(tmp_path / "absent.toml")


def test_a_chat_template_is_a_file_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
    prompt = load(tmp_path, f"prompt = {{ chat = true, template = 'chat.jinja' }}\n{MINIMAL}").prompt
    assert (prompt.chat, prompt.template) == (True, tmp_path / "chat.jinja")
    assert not load(tmp_path, MINIMAL).prompt.chat
    for given, says in (
        ("chat = true, template = 'other.jinja'", r"prompt\.template: there is no file .*other\.jinja"),
        ("system = 'Add.'", "prompt: system is for a chat template, .* write chat = true"),
        ("assistant_prefx = 'x'", r"unknown key 'prompt\.assistant_prefx'; did you mean 'prompt\.assistant_prefix'"),
    ):
        with pytest.raises(RecipeError, match=says):
            load(tmp_path, f"prompt = {{ {given} }}\n{MINIMAL}")
