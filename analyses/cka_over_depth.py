# %% [markdown]
# # At which depth do the representations of full RL depart from the base?
#
# Debiased linear CKA between the base and the fully trained model on the same tokens, after every block, with 95 %
# intervals over sequences. CKA does not see a rotation, so the table also gives the change in the same coordinates.
#
#     python analyses/cka_over_depth.py runs/tiny

# %%
import sys

import lensrl

given = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given[0] if given else "runs/tiny")
profile = lensrl.compare_activations(study, "base", "full-rl")
print(profile.round(4).to_string(index=False))

# %% [markdown]
# The null: the base compared with itself. A difference from 0 is noise of the computation.

# %%
null = lensrl.compare_activations(study, "base", "base")
print(f"largest 1 - CKA of the base compared with itself: {abs(null['one_minus_cka']).max():.1e}")

# %% [markdown]
# Which layers of the two models are alike? A row is a layer of the base, a column is a layer of the trained model. A
# band along the diagonal means that layers at the same depth still correspond.

# %%
print(lensrl.compare_layers(study).round(2))
