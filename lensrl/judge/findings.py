"""Findings: the outcome of one claim's test, the verdicts on all findings together, and the wording of a finding.

A finding is a statistic with a 95 % interval and two one-sided p values. `p_for` is small when the data speak for the
claim, `p_against` when they speak against it. `judge` corrects the two-sided p of all findings together (Holm 1979).
It then gives each finding its verdict: supported, contradicted, or undetermined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lensrl.measures.gains import Interval
from lensrl.store.look import result_html

LEVEL = 0.05


@dataclass(frozen=True, repr=False)
class Finding:
    """The outcome of testing one claim.

    `measure` names the statistic; `value`, `low` and `high` are the statistic and its 95 % interval. With `at_layer`,
    the value is a layer and completes the measure ("peak at layer" 13). `reason` says why the claim was not tested; it
    is empty for a tested claim. `note` gives further numbers in words, `details` gives them by name.

    Two hypotheses are tested. `null` is rejected where the claim is supported, and `counter` where it is contradicted.

    `name`, `statement` and, where the test leaves it empty, `null` are copied from the claim. `judge` fills in `p`,
    two-sided and Holm-corrected, and `verdict`.
    """

    measure: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_for: float = math.nan
    p_against: float = math.nan
    reason: str = ""
    note: str = ""
    counter: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
    at_layer: bool = False
    name: str = ""
    statement: str = ""
    null: str = ""
    p: float = math.nan
    verdict: str = "undetermined"

    def __repr__(self) -> str:
        return f"<Finding {self.name or self.measure}: {self.verdict}; {self.evidence()}>"

    def _repr_html_(self) -> str:
        rows = [{"verdict": self.verdict, "statement": self.statement, "measured": self.evidence(), "p (Holm)": self.p}]
        return result_html(self.name or self.measure, rows, wrapped=("statement", "measured"))

    def evidence(self) -> str:
        """Return the measure with its value, interval, note and rejected hypothesis; or why it was not tested."""
        if self.reason:
            return f"not tested: {self.reason}"
        number = numbers(Interval(self.value, self.low, self.high), at_layer=self.at_layer)
        colon = "" if self.at_layer else ":"
        measured = self.measure if math.isnan(self.value) else f"{self.measure}{colon} {number}"
        return "; ".join(part for part in (measured, self.note, self.rejected()) if part)

    def rejected(self) -> str:
        """Return the hypothesis that the verdict rejects, or both hypotheses where neither is rejected."""
        if self.verdict == "undetermined":
            return (
                f"rejected: neither '{self.null}' nor '{self.counter}'"
                if self.counter
                else f"not rejected: {self.null}"
            )
        return f"rejected: {self.null if self.verdict == 'supported' else self.counter}"

    def sentence(self) -> str:
        """Return the verdict, the statement, the evidence and p as one line of plain text."""
        evidence = self.evidence()
        said = f"{self.verdict.capitalize()}: {self.statement} {evidence[0].upper()}{evidence[1:]}"
        return f"{said}." if self.reason else f"{said}; p {'< 0.001' if self.p < 0.001 else f'= {self.p:.3f}'} (Holm)."


def judge(findings: Sequence[Finding]) -> list[Finding]:
    """Give every finding its Holm-corrected p and its verdict.

    The two-sided p of a finding is min(1, 2 min(p_for, p_against)). Untested claims stay undetermined. They do not
    count in the correction.
    """
    two_sided = {i: min(1.0, 2 * min(f.p_for, f.p_against)) for i, f in enumerate(findings) if not f.reason}
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, i in enumerate(sorted(two_sided, key=lambda i: two_sided[i])):
        largest = max(largest, min(1.0, (len(two_sided) - rank) * two_sided[i]))
        corrected[i] = largest
    judged = []
    for i, finding in enumerate(findings):
        p = corrected.get(i, math.nan)
        verdict = "undetermined"
        if p < LEVEL:
            verdict = "supported" if finding.p_for < finding.p_against else "contradicted"
        judged.append(replace(finding, p=p, verdict=verdict))
    return judged


def numbers(interval: Interval, *, at_layer: bool = False) -> str:
    """Format a value and its interval: `0.58 [0.54, 0.61]`. Layers have three significant digits: `19 [18, 19]`."""
    value, low, high = (f"{end:.3g}" if at_layer else f"{round(end, 2) + 0.0:.2f}" for end in interval)  # no "-0.00"
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"
