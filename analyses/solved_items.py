# %% [markdown]
# # Do single layers solve the same items?
#
# Two layers that recover the same share of the gain may do so on other items. The overlap J (Jaccard) of two runs takes
# one sample of each item from both: the share of items that both solve, among those that one of them solves. Even one
# run does not solve the same items twice, so J of two samples of one run is the baseline, and J of two training seeds
# of one run shows how much training alone changes.
#
#     python analyses/solved_items.py runs/tiny

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
table = lensrl.overlaps(study)
axes = lensrl.plot.overlap(study, table)
own = table[table["kind"] == "samples"].groupby("run")["overlap"].mean()
print("overlap of two samples of one run (the baseline):")
show(own.round(3).to_frame())

# %% [markdown]
# Each pair of runs beside the mean baseline of both: a ratio near 1 says that they solve the same items as far as one
# run solves its own again.

# %%
pairs = table[table["kind"] == "runs"]
both = pairs.groupby(["run", "other"], sort=False)["overlap"].mean().reset_index()
both["baseline"] = [(own[a] + own[b]) / 2 for a, b in zip(both["run"], both["other"], strict=True)]
both["ratio"] = both["overlap"] / both["baseline"]
show(both.round(3))

# %% [markdown]
# Two training seeds of one run, if the study has them.

# %%
seeds = table[table["kind"] == "seeds"]
show(seeds[["run", "seed", "other_seed", "overlap"]].round(3) if len(seeds) else "one seed")

# %% [markdown]
# The best layers together, chosen on one half of the items and measured on the other, beside as many samples of full
# RL. If layers solve other items, their union solves more.

# %%
k = min(2, len(study.layers))
show(lensrl.teams(study, k).round(3))
