# %% [markdown]
# # At which depth do the representations of full RL depart from the base?
#
# Debiased linear CKA between the base and the fully trained model on the same tokens, after every block, with 95 %
# intervals over sequences. CKA does not see a rotation, so the table also gives the change in the same coordinates.
#
#     python analyses/cka_over_depth.py runs/tiny

# %%
import sys
from pathlib import Path

import pandas as pd

import lensrl

STUDY = "runs/tiny"  # the study to look at

in_notebook = "ipykernel" in sys.modules
if in_notebook:  # a notebook draws a table; a script prints it
    from IPython.display import display as show
else:
    show = print
given = Path(STUDY if in_notebook or len(sys.argv) < 2 else sys.argv[1])  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given if given.exists() else Path("..") / given)  # Jupyter starts in the notebook's folder
profile = lensrl.compare_activations(study, "base", "full-rl")
show(profile.round(4))
axes = lensrl.plot.cka(study)

# %% [markdown]
# The null: the base compared with itself. A difference from 0 is noise of the computation.

# %%
null = lensrl.compare_activations(study, "base", "base")
print(f"largest 1 - CKA of the base compared with itself: {abs(null['one_minus_cka']).max():.1e}")

# %% [markdown]
# Which layers of the two models are alike? A row is a layer of the base, a column is a layer of the trained model. A
# band along the diagonal means that layers at the same depth still correspond.

# %%
show(pd.DataFrame(lensrl.compare_layers(study)).round(2))
axes = lensrl.plot.cka_map(study)
