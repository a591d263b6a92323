"""Figures and the self-contained HTML report."""

METRICS = {
    "score": "score",
    "reference_logprob": "log p(reference)",
    "logit_difference": "logit difference",
}  # metric of a patch -> how figures, page and terminal call it
