"""The model card of an exported model: README.md, with the origin of its weights.

Names, settings and versions come from files. They stand in the card as code spans, so they cannot add markup to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from lensrl.errors import LensrlError
from lensrl.recipe.layers import spell_layers
from lensrl.recipe.runs import BASE, FULL, RunSpec, run_rate, set_run
from lensrl.store.origin import provenance
from lensrl.store.run import Run


class Adapter(NamedTuple):
    """A LoRA adapter: how well it gives back the weights of the study."""

    ranks: Mapping[str, int]  # parameter -> rank of its change
    error: float  # || merged - weights || / || weights - base ||, over all changed parameters


@dataclass(frozen=True)
class Exported:
    """What a model card says: the source of the weights, and how they were written."""

    study: str  # the name of the study
    run: Run  # the run that is exported, or the donor of a graft
    into: Run | None  # the receiver of a graft
    parts: Sequence[int | str]  # of a graft: layers, `embed`, `final_norm`, `lm_head`
    base: Run | None  # the run of the base model, for its score
    dtype: str
    fingerprint: str  # of the exported weights
    kept_share: float | None  # of the changed entries, the share that rounding left different; None in fp32
    changed: Sequence[int | str]  # the parts that differ from the base, before rounding
    tokenizer_class: str  # the class of transformers that opens the tokenizer
    generation_config: bool  # whether the base has one
    adapter: Adapter | None = None  # None: the folder holds whole weights


def model_card(exported: Exported) -> str:
    """Return the text of the card."""
    run, into = exported.run, exported.into
    runs = [run] if into is None else [run, into]
    name = _base_name(run.base)
    algorithms = sorted({str(_training_settings(r)["algorithm"]) for r in runs if "algorithm" in _training_settings(r)})
    front = ModelCardData(
        base_model=_printable(name),
        library_name="transformers" if exported.adapter is None else "peft",
        pipeline_tag="text-generation",
        tags=["lensrl", *(["reinforcement-learning"] if algorithms else []), *map(_printable, algorithms)],
    )
    lines = ["---", front.to_yaml(), "---", "", *_title(exported), ""]
    lines += ["## Scores", "", *_scores(exported), ""]
    lines += ["## Load", "", *_load(exported), ""]
    lines += ["## Weights", "", *_weights(exported, name), ""]
    for each in runs:
        lines += [f"## Run {_code(each.name)}", "", *_run(each), ""]
    lines += ["## Written by", "", *_bullets(_flat(_exporter())), ""]
    lines += ["The licence of the base model holds for these weights, too."]
    return "\n".join(lines) + "\n"


def _title(exported: Exported) -> Iterator[str]:
    run, into, study = exported.run, exported.into, _code(exported.study)
    base = _code(_base_name(run.base))
    if into is not None:
        seed = (into if run.name == BASE else run).seed
        yield f"# {spell_parts(exported.parts)} of {_code(run.name)} in {_code(into.name)}"
        yield ""
        yield (
            f"A graft: {spell_parts(exported.parts)} of the run {_code(run.name)}, all else of the run "
            f"{_code(into.name)}. Both runs belong to the study {study} (seed {seed}) of {base}. The graft itself "
            f"was not trained."
        )
    else:
        yield f"# {_code(run.name)} of {study}"
        yield ""
        if run.name == BASE:
            yield f"The base model of the study {study}: {base}, untrained."
        else:
            how = "trained elsewhere" if _checkpoint(run) else "trained with RL"
            yield f"{base}, {how}: {_trained(run)}. Run {_code(run.name)}, seed {run.seed}, of the study {study}."
    yield ""
    yield "lensrl measures which layers of a transformer RL post-training works in."


def _scores(exported: Exported) -> Iterator[str]:
    run, into = exported.run, exported.into
    shown = {r.name: r for r in (exported.base, into, run) if r is not None and r.has_scores}
    base = shown.get(BASE)
    for name, each in shown.items():
        gain = "" if base is None or name == BASE else f" (gain over the base {each.score - base.score:+.4f})"
        yield f"- {_code(name)}: {each.score:.4f}{gain}"
    if not shown:
        yield "The study has no scores."
        return
    evaluation = _table(run, "evaluation")
    yield ""
    yield (
        f"The score is the mean over benchmarks of the mean score per held-out item. Task: "
        f"{_code(_table(run, 'task').get('name', 'unknown'))}. Scored with fp32 weights and the settings "
        f"{_code(', '.join(f'{key} {value}' for key, value in evaluation.items() if value is not None))}."
    )
    if into is not None:
        yield ""
        yield "The graft itself has no score in the study. `lensrl patch` measures it."


def _load(exported: Exported) -> Iterator[str]:
    if exported.adapter is not None:
        yield "```python"
        yield "from peft import PeftModel"
        yield ""
        yield 'folder = "."  # the folder of this file'
        yield "model = PeftModel.from_pretrained(base_model, folder)  # base_model: in fp32, by transformers"
        yield "```"
        return
    tokenizer = exported.tokenizer_class
    yield "```python"
    yield f"from transformers import AutoModelForCausalLM, {tokenizer}"
    yield ""
    yield 'folder = "."  # the folder of this file'
    yield "model = AutoModelForCausalLM.from_pretrained(folder)"
    yield f"tokenizer = {tokenizer}.from_pretrained(folder)"
    yield "```"
    yield ""
    if exported.generation_config:
        yield "The tokenizer files and the generation config, with its sampling defaults, are the base model's."
    else:
        yield "The tokenizer files are the base model's. The base model has no sampling defaults."
    yield "Prompts of the study are plain text: no chat template is applied."


def _weights(exported: Exported, base: str) -> Iterator[str]:
    if exported.adapter is not None:
        ranks = exported.adapter.ranks.values()
        yield (
            f"- a LoRA adapter of {len(ranks)} matrices, rank {min(ranks)} to {max(ranks)}, in fp32. Merged, it misses "
            f"{exported.adapter.error:.2g} of the norm of the change, by **rounding**."
        )
    elif exported.kept_share is None:
        yield "- dtype: `float32`, bit for bit the weights of the study"
    else:
        yield (
            f"- dtype: {_code(exported.dtype)}, **rounded** from the study's fp32 weights. Of the entries that differ "
            f"from the base in fp32, {exported.kept_share:.1%} still differ when both are rounded."
        )
    yield f"- differ from the base in: {spell_parts(exported.changed)}"
    whose = "" if exported.adapter is None else " of the study's weights"
    yield f"- sha256 fingerprint{whose}: {_code(exported.fingerprint)}"
    yield f"- base model: {_code(base)}, fingerprint {_code(exported.run.fingerprint)}"
    yield ""
    yield (
        "A fingerprint is the sha256 over name, shape, type and bytes of every parameter, opened in fp32, in the order "
        "of their names."
    )


def _run(run: Run) -> Iterator[str]:
    """Describe a run: its status, the settings of its training, its provenance."""
    facts: dict[str, Any] = {"status": f"{run.status}: {run.reason}" if run.reason else run.status}
    if run.name != BASE:
        facts |= {"trained": _trained(run), "seed": run.seed} | _flat(_training_settings(run))
    facts |= _flat({"checkpoint": _checkpoint(run)})
    origin = {key: value for key, value in run.provenance.items() if key != "checkpoint"}
    yield from _bullets(facts | {"run id": run.run_id} | _flat(origin))


def _training_settings(run: Run) -> dict[str, Any]:
    """Return the settings of RL: none for the base and for a run that was trained elsewhere.

    Tables of algorithms that the run did not use are left out.
    """
    if run.name == BASE or _checkpoint(run):
        return {}
    settings = _table(run, "rl")
    return {k: v for k, v in settings.items() if not isinstance(v, dict) or k == settings.get("algorithm")}


def _checkpoint(run: Run) -> dict[str, Any]:
    """Return source, revision and dtype of the checkpoint from which a run was taken; empty for a run trained here."""
    record = run.provenance.get("checkpoint")
    if not isinstance(record, dict):
        return {}
    kept = {key: record[key] for key in ("source", "revision", "dtype") if key in record}
    return kept | ({"source": _base_name(str(kept["source"]))} if "source" in kept else {})


def _trained(run: Run) -> str:
    """Say in words which parameters a run trained."""
    if run.layer_set is not None:
        try:
            return set_run(run.name, run.layer_set, run.n_layers, run.seed).trained
        except LensrlError:  # a set that this version of lensrl cannot read: its layers are in the header
            pass
    name, _ = run_rate(run.name) or (run.name, 0.0)
    return RunSpec(run.name, None if name == FULL else tuple(run.layers), run.seed).trained


def _exporter() -> Mapping[str, object]:
    record = provenance(device="", dtypes={})
    return {"created": record["created"], "versions": record["versions"]}


def _table(run: Run, name: str) -> dict[str, Any]:
    """Return a table of the recipe that a run keeps; empty where its recipe has no such table."""
    table = run.recipe.get(name)
    return table if isinstance(table, dict) else {}


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables under names such as `versions.torch`; missing values are left out."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return {key: value for key, value in flat.items() if value is not None}


def _bullets(facts: Mapping[str, Any]) -> Iterator[str]:
    for key, value in facts.items():
        yield f"- {_code(key)}: {_code(value)}"


def _base_name(base: str) -> str:
    """Return the name of a base model for other machines: a hub name, an embedded model, or the last part of a path."""
    is_path = base.startswith(("/", ".", "~")) or Path(base).is_dir()
    return Path(base).name if is_path else base


def spell_parts(parts: Sequence[int | str]) -> str:
    """Spell parts of a model in words: `layers 0-2, embed`, or `nothing`."""
    layers = [part for part in parts if isinstance(part, int)]
    inside = [f"layer{'s' * (len(layers) > 1)} {spell_layers(layers)}"] if layers else []
    return ", ".join([*inside, *(str(part) for part in parts if isinstance(part, str))]) or "nothing"


def _code(value: object) -> str:
    """Return a value from a file as a code span, in which nothing is markup."""
    return f"`{_printable(value).replace('`', chr(39)) or '-'}`"


def _printable(value: object) -> str:
    """Return a value as one line without control characters."""
    text = " ".join(str(value).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
