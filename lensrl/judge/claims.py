"""The claims of the middle-layer account: `CLAIMS`, one row a claim.

The verdict, the report, the command line and the calibration all go through `CLAIMS`: a new claim is a new row. A claim
is stated before its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lensrl.judge.evidence import concentration, convergence, middle, not_size, shape, stability, tracks
from lensrl.judge.findings import Finding, judge
from lensrl.judge.measurements import Measurements
from lensrl.judge.simulation import TRUTHS, Trial


@dataclass(frozen=True)
class Claim:
    """A claim, its null, and its test.

    needs: the fields of `Measurements` that the test needs. Of a tuple of fields, one is enough.
    test: returns the finding, without the names that `find` adds.
    trials: how the calibration tries the claim on simulated studies.
    """

    name: str
    statement: str
    null: str
    needs: tuple[str | tuple[str, ...], ...]
    test: Callable[[Measurements], Finding]
    trials: tuple[Trial, ...] = ()

    def find(self, measurements: Measurements) -> Finding:
        """Test the claim. The finding holds the reason where the test lacks a measurement."""
        missing = self._missing(measurements)
        found = Finding(reason=missing) if missing else self.test(measurements)
        return replace(found, name=self.name, statement=self.statement, null=self.null)

    def _missing(self, measurements: Measurements) -> str:
        """Return the reason of the first need that is missing, or ""."""
        for need in self.needs:
            reasons = [measurements.why_missing(field) for field in ((need,) if isinstance(need, str) else need)]
            if all(reasons):
                return reasons[0]
        return ""


CLAIMS = (
    Claim(
        "concentration",
        "Few layers carry the gain: some recover 80 % of it alone, fewer than half do, and they differ.",
        null="equal contributions with the measured errors",
        needs=("gains",),
        test=lambda m: concentration(m.gains),
        trials=(Trial({"monotone", "hump"}),),
    ),
    Claim(
        "middle",
        "The middle third of the layers recovers more than the first third, and more than the last third.",
        null="equal thirds",
        needs=("gains",),
        test=lambda m: middle(m.gains, m.layers, m.n_layers),
        trials=(Trial({"hump"}),),
    ),
    Claim(
        "shape",
        "Over depth the contribution is a hump with its peak in the middle.",
        null="the best constant, monotone and step profiles with their scatter",
        needs=("shapes",),
        test=lambda m: shape(m.shapes),
        trials=(Trial({"hump"}),),
    ),
    Claim(
        "not size",
        "C_l is not explained by how much the layer's weights moved (less than half of its variance is).",
        null="size explains half of the variance of C_l, raw or beyond depth",
        needs=("sizes",),
        test=lambda m: not_size(m.layers, m.contribution, m.sizes),
        trials=(
            Trial((), "half explained", lambda drawn: {"sizes": {"full": drawn.half}}, ("false",)),
            Trial(TRUTHS, "unrelated", lambda drawn: {"sizes": {"full": drawn.unrelated, "single": drawn.other}},
                  ("wrongly denied", "power")),
        ),
    ),
    Claim(
        "representation",
        "Where RL changes the representation most (growth of 1 - CKA), layers contribute more.",
        null="no relation beyond a quadratic in depth",
        needs=("growth",),
        test=lambda m: tracks(m.layers, m.contribution, m.growth),
        trials=(
            Trial((), "unrelated", lambda drawn: {"growth": {"growth": drawn.unrelated}}, ("false",)),
            Trial(TRUTHS, "related", lambda drawn: {"growth": {"growth": drawn.related}}, ()),
        ),
    ),
    Claim(
        "causal",
        "Layers whose grafts recover more, and whose removal loses more, contribute more.",
        null="no relation beyond a quadratic in depth",
        needs=("grafts",),
        test=lambda m: tracks(m.layers, m.contribution, m.grafts),  # as `representation`, which has the trials
    ),
    Claim(
        "convergence",
        "Training layer l alone brings later layers nearer to full RL's, and more so where C_l is high.",
        null="no approach on average; no relation beyond a quadratic in depth",
        needs=("approach",),
        test=lambda m: convergence(m.layers, m.contribution, m.approach["approach"]),
        trials=(
            Trial((), "unrelated", lambda drawn: {"approach": {"approach": 0.3 + 0.2 * drawn.unrelated}}, ("false",)),
        ),
    ),
    Claim(
        "stability",
        "The ranking of layers holds across seeds, and across studies where several are given, beyond a step.",
        null="noise of seeds and of shared items around the best step; between studies, no relation beyond depth",
        needs=(("halves", "beside"),),
        test=lambda m: stability(m.halves, m.contribution, m.beside),
        trials=(Trial({"monotone", "short", "hump"}),),
    ),
)  # fmt: skip


OF_DELTAS = {claim.name for claim in CLAIMS if "sizes" in claim.needs}  # the claims that rest on weight deltas


def find_all(measurements: Measurements) -> list[Finding]:
    """Test all `CLAIMS` and judge the findings together."""
    return judge([claim.find(measurements) for claim in CLAIMS])
