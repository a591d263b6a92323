"""`lensrl export`: write a run, or a graft of two runs, as a Hugging Face folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import lensrl
from lensrl_cli.output import Seed, StudyArgument, note


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    study: StudyArgument,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run: full-rl, layer-20, the name of a set, base.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write. It must be new or empty.")],
    seed: Seed = None,
    dtype: Annotated[
        Dtype, typer.Option("--dtype", metavar="TYPE", help="float32 (exact), or bfloat16 or float16 (rounded).")
    ] = Dtype.float32,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layer", "--layers", metavar="L", help="Only these layers of RUN, put into the run --into: 20, 0-7, all."
        ),
    ] = None,
    into_run: Annotated[
        str | None, typer.Option("--into", metavar="RUN", help="The run that receives the layers; by default base.")
    ] = None,
    *,
    peft: Annotated[
        bool, typer.Option("--peft", help="Write a LoRA adapter of the base, where the change has a low rank.")
    ] = False,
) -> None:
    """Write a run as a Hugging Face folder: config, safetensors, tokenizer, generation config, model card.

    AutoModelForCausalLM.from_pretrained opens the folder to the weights of the run, bit for bit in float32.

    --layers makes a graft: these layers of RUN in the run --into. It also knows embed, final_norm and lm_head.

    --peft is refused where a change has a high rank: RL on whole matrices changes them in all directions.

    Example: lensrl export runs/tiny full-rl my-model
    """
    with lensrl.open_study(study) as opened:
        if peft:
            if dtype != Dtype.float32:
                raise typer.BadParameter(f"an adapter is written in float32: leave out --dtype {dtype.value}")
            path = lensrl.save_adapter(opened, run, folder, seed=seed, layers=layers, into_run=into_run)
        else:
            path = lensrl.save_pretrained(
                opened, run, folder, seed=seed, dtype=dtype.value, layers=layers, into_run=into_run
            )  # fmt: skip
    note(f"model: {path}")
