# %% [markdown]
# # Which layers carry the gain?
#
# The layer contribution C_l = (S_l - S_base) / (S_full - S_base) is the share of full-parameter RL's gain that RL on
# layer l alone recovers. According to the account under test, the layers in the middle of the stack carry the most.
#
#     python analyses/contribution_profile.py runs/tiny

# %%
import sys
from pathlib import Path

import lensrl
from lensrl.measures.profile import thirds

STUDY = "runs/tiny"  # the study to look at

in_notebook = "ipykernel" in sys.modules
if in_notebook:  # a notebook draws a table; a script prints it
    from IPython.display import display as show
else:
    show = print
given = Path(STUDY if in_notebook or len(sys.argv) < 2 else sys.argv[1])  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given if given.exists() else Path("..") / given)  # Jupyter starts in the notebook's folder
profile = study.contributions()
show(study.scores()[["run", "seed", "status", "score", "gain"]])

# %% [markdown]
# The profile. A layer without a value has a status that says why.

# %%
show(profile[["layer", "contribution", "low", "high", "status"]].round(3))
axes = lensrl.plot.contributions(study)

# %% [markdown]
# The means over the thirds of depth, and the number of layers that recover at least 80 % of the gain. Both are point
# estimates: read them beside the intervals above.

# %%
defined = profile.dropna(subset=["contribution"])
if len(defined) >= 3:
    parts = thirds(defined["layer"].to_numpy(), study.n_layers)
    means = [defined.loc[part, "contribution"].mean() for part in parts]
    print("mean C_l of the first, middle and last third:", *(f"{mean:.2f}" for mean in means))
    print(f"layers with C_l >= 0.8: {(defined['contribution'] >= 0.8).sum()} of {len(defined)}")
else:
    print("fewer than three layers have a contribution:", *profile["reason"].unique())
