# %% [markdown]
# # Where over depth do full RL's representations leave the base's?
#
# Debiased linear CKA between the base and the fully trained model on the same tokens, after every block, with 95 %
# intervals over sequences; beside it what CKA is blind to, the change in the same coordinates.
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
# The null: the base beside itself. What is not 0 here is noise of the computation.

# %%
null = lensrl.compare_activations(study, "base", "base")
print(f"largest 1 - CKA of the base beside itself: {abs(null['one_minus_cka']).max():.1e}")

# %% [markdown]
# Which layers are alike across the two models? A row is a layer of the base, a column one of the trained model; a band
# along the diagonal says that depth kept its meaning.

# %%
print(lensrl.compare_layers(study).round(2))
