"""Controls that are measured for the page: the tables of their verbs, or the reason why there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lensrl import Study, changed_overlap, compare_weights, contributions_at_equal, kl_to_base, patch, write_report
from lensrl.compare.changed_overlap import by_layer
from lensrl.compare.equal_distance import Distance
from lensrl.show import measured_controls as page
from lensrl.show.words import number, small


@pytest.mark.slow
def test_every_control_of_a_study_that_ran_is_a_table_with_the_numbers_of_its_verb(
    small_study_folder: Path, tmp_path: Path
) -> None:
    small_study = Study(shutil.copytree(small_study_folder, tmp_path / "study"))  # patches are stored in it
    found = {control.title: control for control in page.measured_controls(small_study)}
    assert [*found] == [*page.CONTROLS]
    assert all(control.rows for control in found.values()), [control.note for control in found.values()]
    kl = kl_to_base(small_study).set_index("run")
    assert {row["run"]: (row["KL"].split()[0], row["random"]) for row in found["KL to the base"].rows} == {
        run: (small(row["kl"]), small(row["random"])) for run, row in kl.iterrows()
    }
    equal: list[tuple[str, Distance, str]] = [
        ("At an equal KL to the base", "kl", "KL"),
        ("At an equal norm of the deltas", "norm", "norm"),
    ]
    for title, by, heading in equal:
        rows = contributions_at_equal(small_study, by).to_dict("records")
        assert [(row["layer"], row[heading], row["gain"]) for row in found[title].rows] == [
            (str(row["layer"]), number(row["distance"]), number(row["gain"])) for row in rows
        ]
    deltas = compare_weights(small_study, "full-rl", by="layer", draws=page.DRAWS).dropna(subset=["layer"])
    assert [(row["layer"], row["spectral shift"]) for row in found["Random deltas"].rows] == [
        (str(row["layer"]), f"{row['spectral_shift']:.5f} / {row['spectral_shift_random']:.5f}")
        for row in deltas.to_dict("records")
    ]
    assert {row["own"] for row in found["Activations of a wrong item"].rows} == {"0"}
    direct = patch(small_study, what="activations", component="direct", layers=[3])
    expected = direct[direct["metric"] == "reference_logprob"]["recovery"].item()
    row = found["Direct effects"].rows[3]
    assert row["layer"] == "3"
    assert row["direct"].split()[0] == number(expected, 2)
    assert row["whole effect"] != row["direct"]
    last = found["Direct effects"].rows[-1]
    assert last["whole effect"] == last["direct"], "after the last layer, no layer passes anything on"


def test_on_the_page_a_control_is_a_table_or_a_reason_and_without_them_a_command(
    small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("The entries that moved most", "At an equal norm of the deltas")
    monkeypatch.setattr(page, "CONTROLS", {title: page.CONTROLS[title] for title in kept})
    monkeypatch.setattr(type(small_study["full-rl"]), "snapshots", property(lambda _: {}))
    text = write_report(small_study, tmp_path / "with.html", controls=True).read_text(encoding="utf-8")
    table = by_layer(changed_overlap(small_study))
    of_layer = table[(table["kind"] == "layers") & (table["share"] == 0.1) & (table["layer"] == 0)]["overlap"]
    assert f"<td>{number(of_layer.item())}</td>" in text
    assert "no snapshots before its end: put snapshots" in text
    assert "report --controls" not in text
    monkeypatch.setattr("lensrl.show.sections.controls", lambda _: {})  # as in a study of checkpoints: nothing trained
    untrained = write_report(small_study, tmp_path / "untrained.html", controls=True).read_text(encoding="utf-8")
    assert f"<td>{number(of_layer.item())}</td>" in untrained
    monkeypatch.undo()
    text = write_report(small_study, tmp_path / "without.html").read_text(encoding="utf-8")
    assert "lensrl report --controls" in text
    assert kept[0] not in text
