# %% [markdown]
# # Which matrices and which heads of a layer did RL change?
#
# The relative change of every matrix of every layer in full RL, then of every attention head of one layer. A head is a
# block of rows of q, k and v, and a block of columns of o. With grouped queries, k and v have fewer heads.
#
#     python analyses/heads_and_matrices.py runs/tiny

# %%
import sys
from pathlib import Path

import lensrl

STUDY = "runs/tiny"  # the study to look at

in_notebook = "ipykernel" in sys.modules
if in_notebook:  # a notebook draws a table; a script prints it
    from IPython.display import display as show
else:
    show = print
given = Path(STUDY if in_notebook or len(sys.argv) < 2 else sys.argv[1])  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given if given.exists() else Path("..") / given)  # Jupyter starts in the notebook's folder
LAYER = max(study["full-rl"].layers)  # the layer to look into
axes = lensrl.plot.deltas(study)

# %% [markdown]
# The ten matrices that changed most.

# %%
norms = study["full-rl"].delta_norms().dropna(subset=["layer"])
show(norms.nlargest(10, "relative_norm")[["parameter", "norm", "relative_norm", "changed_share"]].round(4))

# %% [markdown]
# The heads of one layer. A random update of the same size would change all heads of a matrix alike: read the spread
# over heads within a row, not the difference between rows.

# %%
heads = lensrl.compare_heads(study, LAYER)
show(heads.pivot(index="matrix", columns="head", values="relative").round(4))
axes = lensrl.plot.heads(heads, title=f"Heads of layer {LAYER} in full RL")
