# %% [markdown]
# # What does the published profile show by itself?
#
# Table 13 of "Is One Layer Enough?" (arXiv 2607.01232) gives the scores of Qwen3-1.7B after GRPO on mathematics: after
# full training, and after training each of the 28 layers alone. The table has no items and no seeds. Its errors are
# estimated from its own roughness over depth, and only the claims about a profile can be judged.
#
#     python analyses/published_profile.py [TABLE.csv]

# %%
import sys
import textwrap
from pathlib import Path

import pandas as pd

import lensrl

TABLE = "runs/published/qwen3-1.7b-grpo-math.csv"  # the table to look at

if "ipykernel" in sys.modules:  # a notebook draws a table; a script prints it
    from IPython.display import display as show
else:
    show = print
path = Path(next((name for name in sys.argv[1:] if name.endswith(".csv")), TABLE))
path = path if path.exists() else Path("..") / path  # Jupyter starts in the notebook's folder
profile = lensrl.read_contributions(path)
show(profile.round(2))

# %% [markdown]
# The claims, and the error of each shape on layers that were left out of the fit.

# %%
verdict = lensrl.verdict(path)
show(verdict)
axes = lensrl.plot.verdict(verdict)
print(*(textwrap.fill(sentence, 110) for sentence in verdict.sentences()), sep="\n\n")
for name, fit in verdict.shapes.items():
    print(f"{name:9} leave-one-out error {fit.error:.3f}")

# %% [markdown]
# Do the benchmarks agree on the profile? The table correlates the profiles of the single benchmarks. The noise of one
# benchmark's problems cannot make two benchmarks agree.

# %%
scores = pd.read_csv(path)
benchmarks = [name for name in scores.columns if name in ("math500", "gsm8k", "olympiad", "amc")]
rows = scores.set_index("setting")[benchmarks]
if {"Base", "Full"} <= set(rows.index):
    by_benchmark = (rows - rows.loc["Base"]) / (rows.loc["Full"] - rows.loc["Base"])
    show(by_benchmark.drop(index=["Base", "Full"]).corr("spearman").round(2))
