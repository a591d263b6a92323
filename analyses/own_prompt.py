# %% [markdown]
# # What happens to a prompt of your own, layer by layer?
#
# One prompt in the base and in full RL: how far the residual stream moved, what each layer would answer if it were the
# last one (the logit lens), and where the heads of one layer look. The models are bridges of TransformerLens, with raw
# weights, so every hook that TransformerLens knows can be read in the same way.
#
#     python analyses/own_prompt.py runs/tiny

# %%
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import lensrl

STUDY = "runs/tiny"  # the study to look at
PROMPT = "47+38="

in_notebook = "ipykernel" in sys.modules
if in_notebook:  # a notebook draws a table; a script prints it
    from IPython.display import display as show
else:
    show = print
given = Path(STUDY if in_notebook or len(sys.argv) < 2 else sys.argv[1])  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given if given.exists() else Path("..") / given)  # Jupyter starts in the notebook's folder
LAYER = max(study["full-rl"].layers)  # the layer whose heads are drawn

probe, before = lensrl.activations(study, "base", [PROMPT])
_, after = lensrl.activations(study, "full-rl", [PROMPT])
x, y = before["block_out"], after["block_out"]  # (layer, token, feature)
moved = np.linalg.norm(y - x, axis=-1) / np.linalg.norm(x, axis=-1)
print("how far the stream moved after each layer, |full RL - base| / |base|, by token:")
show(pd.DataFrame(moved, columns=list(probe["text"])).rename_axis("layer").round(3))

# %% [markdown]
# The logit lens: the final norm and the unembedding read the stream after every layer, at the last token. The table
# has the likeliest next token of each model, and its probability.

# %%
ids = torch.tensor([probe["token_id"].tolist()])
caches: dict[str, Any] = {}
lens: dict[str, list[str]] = {"base": [], "full-rl": []}
for run, rows in lens.items():
    bridge: Any = study[run].bridge()
    with torch.no_grad():
        _, caches[run] = bridge.run_with_cache(ids.to(bridge.cfg.device))
        for layer in range(study.n_layers):
            stream = caches[run][f"blocks.{layer}.hook_out"][:, -1:]
            likely = bridge.unembed(bridge.ln_final(stream))[0, -1].softmax(-1)
            token = int(likely.argmax())
            rows.append(f"{bridge.tokenizer.decode([token])!r} {likely[token]:.2f}")
show(pd.DataFrame(lens).rename_axis("layer"))

# %% [markdown]
# The attention of each head of one layer in full RL: rows look, columns are looked at.

# %%
pattern = caches["full-rl"][f"blocks.{LAYER}.attn.hook_pattern"][0].cpu()  # (head, token, token)
texts, places = list(probe["text"]), range(len(probe))
figure, panels = plt.subplots(1, len(pattern), figsize=(2.2 * len(pattern), 2.6), layout="constrained", squeeze=False)
for head, axes in enumerate(panels[0]):
    axes.imshow(pattern[head], vmin=0, vmax=1, cmap="Blues")
    axes.set_title(f"layer {LAYER}, head {head}", fontsize=9)
    axes.set_xticks(places, texts)
    axes.set_yticks(places, texts)
plt.show()
