# %% [markdown]
# # Is a layer's trained weight enough, and can full RL do without it?
#
# Sufficiency: the RL-trained layer grafted into the base; recovery 1 means that it brings the whole gain. Necessity:
# the base's layer grafted into the RL model; recovery 1 means that the whole gain is lost. C_l is neither of the two:
# it is what the layer learns when it is trained alone.
#
#     python analyses/sufficiency_and_necessity.py runs/tiny

# %%
import sys

import lensrl

given = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given[0] if given else "runs/tiny")
sufficiency = lensrl.patch(study, layers="all", what="weights")
necessity = lensrl.patch(study, layers="all", what="weights", reverse=True)
for title, rows in (("sufficiency", sufficiency), ("necessity", necessity)):
    table = rows.pivot(index="layer", columns="metric", values="recovery")
    print(title, table.assign(contribution=rows.groupby("layer")["contribution"].first()).round(2), sep="\n")

# %% [markdown]
# Do the layers add up? All of them together in one graft, beside the sum of the single ones. A sum above what they
# recover together says that layers bring the same gain more than once; a score near 1 or a log-probability near 0
# looks like that by itself.

# %%
lensrl.patch(study, layers="all", what="weights", sets="together")
print(lensrl.additivity_table(study).round(2).to_string(index=False))

# %% [markdown]
# From either end: the recovery of layers 0 to l together, and of l to the last. Where the curve climbs, the joint
# training does its work.

# %%
for end in ("bottom", "top"):
    rows = lensrl.patch(study, layers="all", what="weights", sets=end)
    scores = rows[rows["metric"] == "score"]
    print(end, scores[["layers", "recovery", "low", "high"]].round(2).to_string(index=False), sep="\n")
