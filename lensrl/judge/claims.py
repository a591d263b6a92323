"""The claims of the middle-layer account: `CLAIMS`, one row a claim.

The verdict, the report, the command line and the calibration all go through `CLAIMS`: a new claim is a new row. A claim
is stated before its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lensrl.judge.evidence import concentration, middle, shape, stability
from lensrl.judge.findings import Finding, judge
from lensrl.judge.measurements import Measurements
from lensrl.judge.relations import convergence, not_size, tracks
from lensrl.judge.simulation import ROUGH, SMOOTH, TRUTHS, Trial
from lensrl.measures.rise_and_fall import holds


@dataclass(frozen=True)
class Claim:
    """A claim, the hypothesis that its support rejects, and its test.

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
        return replace(found, name=self.name, statement=self.statement, null=found.null or self.null)

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
        "Few layers carry the gain: the best recovers 80 % of it alone, and C_l is spread over less than half of the "
        "layers.",
        null="the best layer recovers less than 0.8, or the effective number is half of the layers or more",
        needs=("gains",),
        test=lambda m: concentration(m.gains, m.best),
        trials=(Trial({"few"}),),
    ),
    Claim(
        "middle",
        "The middle third of the layers recovers more than the first third, and more than the last third.",
        null="the middle third recovers no more than the first, or no more than the last",
        needs=("gains",),
        test=lambda m: middle(m.gains, m.layers, m.n_layers),
        trials=(Trial({"hump", "slow rise", "flat top", "slope", "few", "odd ends"}, either=ROUGH | {"close humps"}),),
    ),
    Claim(
        "shape",
        "Over depth C_l rises and then falls, each by at least 0.05 over a fifth of the layers, and no valley shows.",
        null="a rise below 0.05, or a fall below 0.05 after it",
        needs=("gains",),
        test=lambda m: shape(m.gains, m.layers, error=m.noise.error),
        trials=(Trial(holds),),
    ),
    Claim(
        "not size",
        "C_l is not explained by how much the layer's weights moved: less than half of its variance is.",
        null="a size explains half of the variance or more",
        needs=("sizes",),
        test=lambda m: not_size(m.contribution, m.sizes, reliability=m.noise.reliability, of_sizes=m.of_sizes),
        trials=(
            Trial(TRUTHS, "r 0", lambda d: {"sizes": {"full": d.correlated(0.0), "alone": d.correlated(0.0)}}),
            Trial(TRUTHS, "r 0.45", lambda d: {"sizes": {"full": d.correlated(0.45)}}),
            Trial(TRUTHS, "r 0.6", lambda d: {"sizes": {"full": d.correlated(0.6)}}),
            Trial((), "r -0.95", lambda d: {"sizes": {"full": d.correlated(-0.95)}}),
            Trial((), "half", lambda d: {"sizes": {"full": d.correlated(0.5**0.5)}}, either=TRUTHS),
        ),
    ),
    Claim(
        "representation",
        "Where RL changes the representation most (growth of 1 - CKA), layers contribute more.",
        null="no positive relation beyond a trend in depth, or none given the rival that hurts most",
        needs=("growth",),
        test=lambda m: tracks(m.layers, m.contribution, m.growth, rivals=m.rivals),
        trials=(
            Trial((), "unrelated", lambda d: {"growth": {"growth": d.drifting()}}),
            Trial({"rough"}, "own trend", lambda d: {"growth": {"growth": d.like_truth()}}, either={"drift"}),
            Trial((), "rival", lambda d: {"growth": {"growth": d.like_truth()}, "rivals": {"bypass": d.truth}}),
        ),
    ),
    Claim(
        "causal",
        "Layers whose grafts recover more, and whose removal loses more, contribute more.",
        null="no positive relation beyond a trend in depth, or none given the rival that hurts most",
        needs=("grafts",),
        test=lambda m: tracks(m.layers, m.contribution, m.grafts, rivals=m.rivals),
        trials=(
            Trial((), "one unrelated", lambda d: {"grafts": {"into": d.like_truth(), "out": d.drifting()}}),
            Trial({"rough"}, "own trend", lambda d: {"grafts": {"into": d.like_truth(), "out": d.like_truth()}},
                  either={"drift"}),
        ),
    ),
    Claim(
        "convergence",
        "Training layer l alone brings later layers nearer to full RL's, and more so where C_l is high.",
        null="no approach on average, no positive relation beyond a trend in depth, or none given the worst rival",
        needs=("approach",),
        test=lambda m: convergence(m.layers, m.contribution, m.approach["approach"], rivals=m.rivals),
        trials=(
            Trial((), "unrelated", lambda d: {"approach": {"approach": 0.3 + 0.2 * d.drifting()}}),
            Trial({"rough"}, "own trend", lambda d: {"approach": {"approach": d.like_truth()}}, either={"drift"}),
        ),
    ),
    Claim(
        "stability",
        "The ranking of layers holds across seeds, and across studies where several are given, beyond a step.",
        null="each seed differs from the best step by luck of its own; between studies, no relation beyond a trend in "
        "depth",
        needs=(("halves", "beside"),),
        test=lambda m: stability(m.halves, m.beside),
        trials=(
            Trial(SMOOTH | ROUGH, either={"odd ends", "sigmoid", "close humps"}),
            Trial((), "one layer's luck", lambda d: {"halves": d.lucky("one layer")}, only={"cliff"}),
            Trial((), "smooth luck", lambda d: {"halves": d.lucky("smooth")}, only={"cliff"}),
        ),
    ),
)  # fmt: skip


OF_DELTAS = {claim.name for claim in CLAIMS if "sizes" in claim.needs}  # the claims that rest on weight deltas


def find_all(measurements: Measurements) -> list[Finding]:
    """Test all `CLAIMS` and judge the findings together."""
    return judge([claim.find(measurements) for claim in CLAIMS])
