# %% [markdown]
# # Are the trained weights of one layer sufficient, and are they necessary?
#
# Sufficiency: graft the RL-trained layer into the base. Recovery 1 means that the layer brings the whole gain.
# Necessity: graft the base's layer into the RL model. Recovery 1 means that the whole gain is lost. C_l is a third
# quantity: the gain that the layer learns when it is trained alone.
#
#     python analyses/sufficiency_and_necessity.py runs/tiny

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
sufficiency = lensrl.patch(study, layers="all", what="weights")
necessity = lensrl.patch(study, layers="all", what="weights", reverse=True)
for title, rows in (("sufficiency", sufficiency), ("necessity", necessity)):
    table = rows.pivot(index="layer", columns="metric", values="recovery")
    print(title)
    show(table.assign(contribution=rows.groupby("layer")["contribution"].first()).round(2))
axes = lensrl.plot.patching(study, sufficiency)
axes = lensrl.plot.patching(study, necessity)

# %% [markdown]
# Do the layers add up? Compare one graft of all layers with the sum of the single grafts. A sum above the joint
# recovery means that several layers bring the same gain. A score near 1, or a log-probability near 0, has the same
# effect: it cannot grow further.

# %%
lensrl.patch(study, layers="all", what="weights", sets="together")
sums = lensrl.additivity_table(study).round(2)
show(sums[["metric", "single_sum", "together", "interaction", "interaction_low", "interaction_high"]])

# %% [markdown]
# Cumulative grafts from both ends: the recovery of layers 0 to l together, and of layers l to the last. The steep parts
# of the curves show where the joint training acts.

# %%
for end in ("bottom", "top"):
    rows = lensrl.patch(study, layers="all", what="weights", sets=end)
    scores = rows[rows["metric"] == "score"]
    print(end)
    show(scores[["layers", "recovery", "low", "high"]].round(2))
    axes = lensrl.plot.patching(study, rows)
