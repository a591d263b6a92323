# %% [markdown]
# # What does the RL model answer differently?
#
# Every completion of full RL beside that of the base, for the same item and sample. A sample of both was drawn with the
# same random numbers. Items are counted by their mean score over samples: solved more often, less often, or the same.
#
#     python analyses/changed_answers.py runs/tiny

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt

import lensrl

STUDY = "runs/tiny"  # the study to look at

in_notebook = "ipykernel" in sys.modules
if in_notebook:  # a notebook draws a table; a script prints it
    from IPython.display import display as show
else:
    show = print
given = Path(STUDY if in_notebook or len(sys.argv) < 2 else sys.argv[1])  # a notebook's arguments are Jupyter's own
study = lensrl.open_study(given if given.exists() else Path("..") / given)  # Jupyter starts in the notebook's folder
answers = study.completions("full-rl")
answers["change"] = answers["item_score"] - answers["base_item_score"]
items = answers.drop_duplicates(["benchmark", "item"])
more, less = (items["change"] > 0).sum(), (items["change"] < 0).sum()
print(f"{len(items)} items: {more} solved more often than by the base, {less} less often, the rest as often")
figure, axes = plt.subplots(figsize=(4.5, 2.6), layout="constrained")
axes.hist(items["change"], bins=21, range=(-1.05, 1.05), color="#4c78a8")
axes.set(xlabel="score of an item, full RL - base", ylabel="items")
plt.show()

# %% [markdown]
# Answers that the base got wrong and full RL got right, on the items that gained most: the first sample of each.

# %%
columns = ["item", "prompt", "reference", "base_completion", "completion"]
won = answers[(answers["base_score"] < 1) & (answers["score"] == 1)]
best = won.sort_values("change", ascending=False, kind="stable").drop_duplicates(["benchmark", "item"])
show(best[columns].head(12))

# %% [markdown]
# Answers that the base got right and full RL got wrong. Both are sampled, so a few of these are chance.

# %%
lost = answers[(answers["base_score"] == 1) & (answers["score"] < 1)]
worst = lost.sort_values("change", kind="stable").drop_duplicates(["benchmark", "item"])
show(worst[columns].head(12))
print(f"{len(won)} samples won, {len(lost)} lost, of {len(answers)}")
