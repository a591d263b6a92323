# %% [markdown]
# # Does the change of a layer's weights explain its contribution?
#
# Weight-delta norms of every layer, in full RL and when the layer is trained alone, against C_l. The depth of a layer
# is the rival that any such predictor has to beat.
#
#     python analyses/weight_deltas.py runs/tiny

# %%
import sys

import lensrl

given = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given[0] if given else "runs/tiny")
table = lensrl.predictors(study)
print(table.round(4).to_string(index=False))

# %% [markdown]
# Correlations over layers, with a permutation p. Neighbouring layers are alike, so both the intervals and p are
# optimistic for any predictor that drifts with depth.

# %%
try:
    print(lensrl.correlate_study(study).round(3).to_string(index=False))
except lensrl.LensrlError as nothing:
    print(nothing)

# %% [markdown]
# Which parts of a layer moved in full RL: attention, MLP or norms? Each norm is relative to the norm of the part's
# weights in the base.

# %%
norms = study["full-rl"].delta_norms().dropna(subset=["layer"])
parts = (norms[["norm", "base_norm"]] ** 2).groupby([norms["layer"], norms["component"]]).sum() ** 0.5
print((parts["norm"] / parts["base_norm"]).unstack("component").round(4).to_string())
