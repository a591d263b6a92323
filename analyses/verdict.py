# %% [markdown]
# # Does the middle-layer account hold in this study?
#
# Every claim of the account is stated before its numbers. It has an interval, a null, a p that is corrected for all
# claims, and one of three verdicts. Measured error rates of this procedure: lensrl/judge/CALIBRATION.md.
#
#     python analyses/verdict.py runs/tiny

# %%
import sys
import textwrap
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
lensrl.base_rivals(study)  # properties of the base model's layers, known before RL; kept in the study
try:
    verdict = lensrl.verdict(study)
except lensrl.LensrlError as nothing:
    sys.exit(f"no verdict: {nothing}")
show(verdict)
print(*(textwrap.fill(sentence, 110) for sentence in verdict.sentences()), sep="\n\n")

# %% [markdown]
# The shapes, with the root mean squared error of their predictions for layers left out of the fit, in units of C_l.

# %%
axes = lensrl.plot.verdict(verdict)
for name, fit in verdict.shapes.items():
    print(f"{name:9} {fit.error:.3f}, explains {fit.explained:.0%} of what the constant does not")

# %% [markdown]
# Correlations of every predictor and its rivals (baselines that are known before RL) with C_l, raw and beyond a
# flexible trend in depth (from 24 layers on). `shift_p` comes from circular shifts over depth: with n layers it cannot
# be below 1 / n.

# %%
table = verdict.correlations
wide = table[table["method"] != "pearson"].pivot(index="predictor", columns="method", values="coefficient")
shifts = table[table["method"] == "detrended"].set_index("predictor")["shift_p"]
show(wide.assign(shift_p=shifts).reindex(table["predictor"].unique()).round(2))
axes = lensrl.plot.predictors(study, correlations=table)
