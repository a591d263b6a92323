"""The verbs as a person types them."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lensrl import compare_activations, compare_layers, contributions_at_equal, kl_to_base, open_study, plot
from lensrl.compare.predictors import PREDICTORS
from lensrl.show.words import small
from lensrl.store import contributions
from tests.cli import typed
from tests.store.synthetic import add_run, make_study, solved_by_half

SHIPPED = Path(__file__).parents[2] / "runs"


def lensrl(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lensrl_cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_the_gain_is_of_the_seeds_that_are_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path / "two-seeds")
    add_run(study, "base", solved_by_half(8, 8))
    add_run(study, "full-rl", solved_by_half(18, 18), seed=0)
    add_run(study, "full-rl", solved_by_half(8, 8), seed=1)
    add_run(study, "layer-1", solved_by_half(13, 13), seed=0)
    done = lensrl("contribution", study)
    assert re.search(r"base 0\.400, full RL 0\.900, gain 0\.500 .*; seeds 1 of full RL's 2", done.stdout), done.stdout
    add_run(study, "layer-1", solved_by_half(8, 8), seed=1)
    done = lensrl("contribution", study)
    assert re.search(r"base 0\.400, full RL 0\.650, gain 0\.250 .*; seeds 2\n", done.stdout), done.stdout


def test_contributions_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, saved = make_study(tmp_path / "layers"), tmp_path / "c.svg"
    add_run(study, "base", solved_by_half(8, 8), n_layers=4)
    for run, solved in {"full-rl": 18, "layer-0": 12, "layer-1": 16, "layer-2": 14, "layer-3": 10}.items():
        add_run(study, run, solved_by_half(solved, solved), n_layers=4)
    with open_study(study) as opened:
        plot.save(plot.contributions(opened), tmp_path / "python.svg")
    computed = []
    compute = contributions.layer_contributions
    monkeypatch.setattr(
        contributions,
        "layer_contributions",
        lambda *given, **chosen: computed.append(given) or compute(*given, **chosen),
    )
    done = typed.lensrl("contribution", study, "--figure", saved)
    assert (done.returncode, len(computed)) == (0, 1), done.stderr
    assert saved.read_text() == (tmp_path / "python.svg").read_text()


def test_contribution_json_is_one_object_per_layer_and_set(small_study_folder: Path) -> None:
    done = lensrl("contribution", small_study_folder, "--json")
    parts = json.loads(done.stdout)
    rows = parts["layers"]
    assert [row["set"] for row in parts["sets"]] == ["ends"]
    assert parts["rates"] == []
    assert [row["layer"] for row in rows] == [0, 3, 7]
    assert all(row.keys() >= {"contribution", "low", "high", "status"} for row in rows)
    assert all((row["contribution"] is None) == (row["status"] != "defined") for row in rows)


def test_contribution_in_the_terminal_says_what_python_says(small_study_folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / "c.csv", tmp_path / "c.png"]
    done = lensrl("contribution", small_study_folder, "--csv", files[0], "--figure", files[1])
    assert done.returncode == 0, done.stderr
    with open_study(small_study_folder) as study:
        table = study.contributions()
    assert f"{table['denominator'].iloc[0]:.3f}" in done.stdout
    with files[0].open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == ["0", "3", "7"]
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_contribution_at_equal_distance_stands_beside_the_ordinary_one(small_study_folder: Path) -> None:
    done = lensrl("contribution", small_study_folder, "--at-equal", "norm")
    assert done.returncode == 0, done.stderr
    shown = done.stdout[done.stdout.index("Layers at equal norm of the deltas, small") :]
    with open_study(small_study_folder) as study:
        table = contributions_at_equal(study, "norm")
    for row in table.to_dict("records"):
        assert re.search(rf"\n +{row['layer']} +{row['distance']:.3f} +-?{abs(row['gain']):.3f} ", shown), shown
    refused = lensrl(
        "contribution", "--contributions", SHIPPED / "published" / "qwen3-1.7b-grpo-math.csv", "--at-equal", "kl"
    )
    assert refused.returncode == 2
    assert "a table of contributions has no models" in refused.stderr


def test_kl_to_the_base_stands_beside_its_null(small_study_folder: Path) -> None:
    done = lensrl("contribution", small_study_folder, "--kl")
    assert done.returncode == 0, done.stderr
    shown = done.stdout[done.stdout.index("KL to the base on held-out completions, small") :]
    with open_study(small_study_folder) as study:
        table = kl_to_base(study)
    for row in table.to_dict("records"):
        (line,) = (line for line in shown.splitlines() if line.split()[:1] == [row["run"]])
        assert f"{row['kl']:.3f}" in line
        assert f"{small(row['high'])} {small(row['random'])} {row['gain']:.3f}" in re.sub(" +", " ", line)


def test_json_stays_json_while_files_are_saved(small_study_folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / "c.csv", tmp_path / "c.svg"]
    for verb in ("contribution", "correlate"):
        done = lensrl(verb, small_study_folder, "--json", "--csv", files[0], "--figure", files[1])
        assert json.loads(done.stdout)
        assert done.stderr.splitlines() == [f"table: {files[0]}", f"figure: {files[1]}"]


def test_deltas_show_which_entries_moved_most(small_study_folder: Path, tmp_path: Path) -> None:
    done = lensrl("deltas", small_study_folder, "--overlap", "--csv", tmp_path / "overlap.csv")
    assert done.returncode == 0, done.stderr
    assert "Overlap of the entries that moved most, full-rl, small" in done.stdout
    assert "0.01, 0.1 by chance" in done.stdout
    assert "another seed" not in done.stdout  # there is one
    with (tmp_path / "overlap.csv").open() as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"alone", "layers"}
    for options in (["--layer", "3"], ["--by", "head"]):
        refused = lensrl("deltas", small_study_folder, "--overlap", *options)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "--overlap is a table of a study" in refused.stderr
    refused = lensrl("deltas", small_study_folder, "--draws", "3")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--draws is for --control random: add it" in refused.stderr


def test_cka_and_deltas_show_and_save_what_python_says(small_study_folder: Path, tmp_path: Path) -> None:
    done = lensrl("cka", small_study_folder, "--into", "layer-3", "--figure", tmp_path / "cka.png")
    with open_study(small_study_folder) as study:
        table = compare_activations(study, "base", "layer-3")
    assert [line.split()[1] for line in done.stdout.splitlines()[2:10]] == [f"{value:.4f}" for value in table["cka"]]
    done = lensrl("deltas", small_study_folder, "--run", "layer-3", "--json", "--csv", tmp_path / "deltas.csv")
    rows = json.loads(done.stdout)
    assert {row["layer"] for row in rows} == {3}
    with (tmp_path / "deltas.csv").open() as file:
        assert [row["parameter"] for row in csv.DictReader(file)] == [row["parameter"] for row in rows]
    assert (tmp_path / "cka.png").read_bytes().startswith(b"\x89PNG")


def test_the_map_of_cka_follows_every_option(small_study_folder: Path, tmp_path: Path) -> None:
    def drawn(*options: str) -> str:
        done = typed.lensrl("cka", small_study_folder, "--map", "--figure", tmp_path / "map.svg", *options)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "map.svg").read_text()

    with open_study(small_study_folder) as study:
        values = compare_layers(study, pairs="token", first_token=True)
        plot.save(plot.cka_map(values, title=f"{study.name}: CKA of all layers"), tmp_path / "python.svg")
    both = drawn("--pairs", "token", "--keep-first")
    assert both == (tmp_path / "python.svg").read_text()
    assert len({drawn(), drawn("--pairs", "token"), drawn("--keep-first"), both}) == 4


def test_patch_json_has_a_row_per_kind_and_metric(small_study_folder: Path) -> None:
    done = lensrl("patch", small_study_folder, "--from", "full-rl", "--layer", 3, "--json")
    rows = json.loads(done.stdout)
    assert {(row["what"], row["metric"]) for row in rows} == {
        ("weights", "score"), ("weights", "reference_logprob"),
        ("activations", "reference_logprob"), ("activations", "logit_difference"),
    }  # fmt: skip
    assert all(row.keys() >= {"layer", "what", "metric", "recovery", "low", "high"} for row in rows)


def test_the_only_study_under_runs_is_the_default(small_study_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    none = lensrl("patch", "--layer", 3, cwd=tmp_path)
    assert (none.returncode, "no study under runs/" in none.stderr) == (2, True)
    (tmp_path / "runs" / "one").symlink_to(small_study_folder)
    assert lensrl("patch", "--layer", 3, cwd=tmp_path).returncode == 0
    (tmp_path / "runs" / "two").symlink_to(small_study_folder)
    several = lensrl("patch", "--layer", 3, cwd=tmp_path)
    assert several.returncode == 2
    assert "runs/one" in several.stderr
    assert "runs/two" in several.stderr


def test_correlate_and_report_show_the_same_study(small_study_folder: Path, tmp_path: Path) -> None:
    done = lensrl("report", small_study_folder, "--out", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1", (tmp_path / "r.html").read_text(), flags=re.DOTALL)
    assert "<svg" in page
    assert "src=" not in page
    assert "<link" not in page
    too_few = lensrl("correlate", small_study_folder, "--json")
    rows = json.loads(too_few.stdout)
    assert {(row["method"], row["reason"].split(": ")[1]) for row in rows} == {
        ("spearman", "at least 4 are needed"),
        ("pearson", "at least 4 are needed"),
        ("detrended", "beyond a trend in depth at least 24 are needed"),
    }
    shown = lensrl("correlate", small_study_folder)
    assert shown.returncode == 0, shown.stderr
    for predictor in {row["predictor"] for row in rows}:
        assert shown.stdout.count(f"\n{PREDICTORS[predictor]} ") == 1


@pytest.mark.slow
def test_verbs_that_only_read_do_not_import_torch(small_study_folder: Path) -> None:
    for verb in (
        ["--help"],
        ["contribution", small_study_folder],
        ["report", small_study_folder],
        ["bottleneck", "--contributions", SHIPPED / "published" / "qwen3-1.7b-grpo-math.csv"],
        ["run", "--help"],
        ["show", small_study_folder],
        ["verify", small_study_folder],
        ["cka", small_study_folder],
    ):
        code = (
            "import sys; from lensrl_cli.main import app\n"
            "app(sys.argv[1:], standalone_mode=False); assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code, *map(str, verb)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


ARITHMETIC = 'model = "tiny:qwen3"\n[task]\nname = "arithmetic"\n'
EMPTY = 'model = "tiny:qwen3"\n[task]\nname = "math"\ntrain = "empty.jsonl"\ntest = { a = "empty.jsonl" }\n'
BAD = {
    "unknown key": (f"{ARITHMETIC}[rl]\nstep = 3\n", "unknown key 'rl.step'; did you mean 'rl.steps'?"),
    "no folder": (ARITHMETIC.replace("tiny:qwen3", "./nowhere"), "no model folder at ./nowhere"),
    "not toml": ("model = \n", "is not a TOML file"),
    "layer out of range": (f"layers = [9]\n{ARITHMETIC}", "layer 9 is out of range: this model has 8 layers"),
    "empty task file": (EMPTY, "empty.jsonl is empty"),
    "no benchmark": (EMPTY.replace('{ a = "empty.jsonl" }', "{}"), "task.test: Dictionary should have at least 1 item"),
    "unknown task key": (EMPTY + 'promt = "x"\n', "unknown key 'task.promt'; did you mean 'task.prompt'?"),
    "seed twice": (f"seeds = [0, 0]\n{ARITHMETIC}", "seeds [0, 0] name a seed twice"),
    "empty set": (f"{ARITHMETIC}[sets]\nnone = []\n", "'none' names no layer"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_one_line_and_exit_code_2(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    (tmp_path / "bad.toml").write_text(text)
    (tmp_path / "empty.jsonl").touch()
    done = lensrl("run", tmp_path / "bad.toml", cwd=tmp_path)
    assert_one_line(done, expected)
    assert not list(tmp_path.rglob("*.h5"))


def assert_one_line(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["patch", "--laye", "3"], "--laye"),
        (["contribution", "nowhere"], "no study folder at nowhere; make one with: lensrl run"),
        (["run", "nowhere.toml"], "no recipe at nowhere.toml"),
        (["patch", "STUDY", "--layer", "99"], "layer 99 is out of range: this model has 8 layers"),
        (["patch", "STUDY", "--layer", "3-x"], "'3-x' is not a layer"),
        (["patch", "STUDY", "--layer", "3", "--from", "layer-4"], "has no run 'layer-4'; did you mean"),
        (["patch", "STUDY", "--layer", "3", "--what", "nothing"], "nothing"),
        (
            ["run", str(SHIPPED / "smoke.toml"), "--out", str(SHIPPED / "smoke.toml")],
            "is a file and the study needs a folder",
        ),
        (["contribution", "STUDY", "--figure", "x.gif"], "cannot save a figure as 'x.gif'"),
        (["contribution", "STUDY", "--sort", "contributoin"], "no column 'contributoin'; did you mean 'contribution'?"),
        (["contribution", "STUDY", "--layer", "5"], "no row for layer 5: there are 0,3,7"),
        (["deltas", "STUDY", "--run", "base"], "the base is not trained: it has no deltas; --run names a trained run"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], expected: str, small_study_folder: Path, tmp_path: Path
) -> None:
    done = lensrl(*(small_study_folder if a == "STUDY" else a for a in arguments), cwd=tmp_path)
    assert_one_line(done, expected)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\nfrom lensrl_cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        f"sys.argv = ['lensrl', 'run', {str(SHIPPED / 'smoke.toml')!r}, '--out', {str(tmp_path / 'full')!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert_one_line(done, "base.h5 could not be written (File too large)")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["recipe.json"]
