# %% [markdown]
# # Does the change of a layer's weights explain its contribution?
#
# Weight-delta norms of every layer, in full RL and when the layer is trained alone, against C_l. The depth of a layer
# is the rival that any such predictor has to beat.
#
#     python analyses/weight_deltas.py runs/tiny

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
table = lensrl.predictors(study)
show(table.round(4))
axes = lensrl.plot.delta_norms(study, table)

# %% [markdown]
# Correlations over layers, with a permutation p. Neighbouring layers are alike, so both the intervals and p are
# optimistic for any predictor that drifts with depth.

# %%
try:
    correlations = lensrl.correlate_study(study, table)
    show(correlations.drop(columns="reason").round(3))
    axes = lensrl.plot.predictors(study, table=table, correlations=correlations)
except lensrl.LensrlError as nothing:
    print(nothing)

# %% [markdown]
# Which parts of a layer moved in full RL: attention, MLP or norms? Each norm is relative to the norm of the part's
# weights in the base.

# %%
norms = study["full-rl"].delta_norms().dropna(subset=["layer"])
parts = (norms[["norm", "base_norm"]] ** 2).groupby([norms["layer"], norms["component"]]).sum() ** 0.5
show((parts["norm"] / parts["base_norm"]).unstack("component").round(4))
axes = lensrl.plot.deltas(study, by="component")
