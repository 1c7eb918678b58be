"""Evidence that is verified by deletion: which parameters carry a decision, and whether it really rests on them.

The candidates are ranked by clearing one parameter at a time from the newest bin, which is cheap. What is cited is then
put to the test on the whole record, as a session that is played again:

* necessity (comprehensiveness): without the cited parameters, all their readings taken out, the margin must fall;
* sufficiency: with the cited parameters and the static features alone, the action, to alert or not, must hold.

Source of the two tests: DeYoung et al. 2020, arXiv:1911.03429, section 4.2. The channels of a parameter depend on its
own readings alone and are all zero before the first, so that zeroing them in every bin is the record without them.

Where an alert's first four candidates do not hold, up to two repairs follow, each of a bounded number of passes, so
that the same record always gives the same evidence: the best candidates are ranked again by clearing them from the
whole record, and then the weakest of the four is exchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from smallhold.decide.local import TaskSession
    from smallhold.decide.signal_encoder import FloatArray

#: Log-odds below which a parameter is not worth a line, and a fall of the margin is none.
LEAST_EFFECT = 0.02
MOST_CITED = 4
#: Candidates that a repair looks at. On the validation split of PhysioNet 2012, 86 % of the explanations hold at
#: once, 95 % after the first repair; twice as many candidates bring less than two points (docs/experiments.md).
_RANKED_AGAIN = 8
_EXCHANGED = 6


@dataclass(frozen=True, slots=True)
class Trial:
    """An answer to a record: log-odds of the positive choice, and its calibrated probability."""

    margin: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a decision rests on, and what deleting it does.

    Attributes:
        cited: Parameter to log-odds that the decision loses when it is cleared from the newest bin; strongest first.
        whole: The answer as given.
        without: The answer to the record without the cited parameters.
        alone: The answer to the record with the cited parameters and the static features alone.
        threshold: Probability from which on people are called.
        passes: Whole records that were played again.
    """

    cited: dict[str, float]
    whole: Trial
    without: Trial
    alone: Trial
    threshold: float
    passes: int

    @property
    def is_alert(self) -> bool:
        """Whether the answer calls people."""
        return self.whole.probability >= self.threshold

    @property
    def is_necessary(self) -> bool:
        """Without the cited parameters the margin falls."""
        return bool(self.cited) and self.whole.margin - self.without.margin >= LEAST_EFFECT

    @property
    def is_sufficient(self) -> bool:
        """The cited parameters alone lead to the same action."""
        return bool(self.cited) and (self.alone.probability >= self.threshold) == self.is_alert

    @property
    def is_verified(self) -> bool:
        """Both."""
        return self.is_necessary and self.is_sufficient


def explain(session: TaskSession, field: str) -> Explanation:
    """Choose at most `MOST_CITED` parameters that carry the newest decision, and verify them by deletion.

    Costs a position of the trunk for each measured parameter, two whole records where the first choice holds, and 19 at
    most.

    Args:
        session: Left as it was.
        field: Of the task.

    Raises:
        DecisionError: no bin was closed yet, or the field's choices have a common beginning.
        RecipeError: the task has no such field.
    """
    return _Search(session, field).run()


class _Search:
    def __init__(self, session: TaskSession, field: str) -> None:
        self._effects = session.effects(field)  # refuses what cannot be explained
        self._session, self._field = session, field
        self._channels = session.channels()
        parameters = session.task.signal.parameters
        self._columns = {name: i for i, name in enumerate(parameters)}
        self._per = self._channels.shape[1] // len(parameters)
        self._threshold = session.task.field(field).alert_threshold
        self._whole = session.trial(field)
        self._passes = 0

    def run(self) -> Explanation:
        ranked = sorted(self._effects, key=lambda name: -self._effects[name])
        ranked = [name for name in ranked if self._effects[name] >= LEAST_EFFECT]
        found = self._verify(ranked[:MOST_CITED])
        if not found.is_alert or found.is_verified or len(ranked) <= MOST_CITED:
            return found
        # (1) What counts over the whole record may be small in the newest bin.
        pool = ranked[:_RANKED_AGAIN]
        left = {name: self._without([name]).margin for name in pool}
        again = self._verify(sorted(pool, key=left.__getitem__)[:MOST_CITED])
        if again.is_verified:
            return replace(again, passes=self._passes)
        # (2) Exchange the weakest for the candidate that keeps the risk highest.
        kept = ranked[: MOST_CITED - 1]
        trials = {name: self._alone([*kept, name]) for name in ranked[MOST_CITED : MOST_CITED + _EXCHANGED]}
        best = max(trials, key=lambda name: trials[name].margin)
        last = self._build([*kept, best], self._without([*kept, best]), trials[best])
        return replace(last if last.is_verified else found, passes=self._passes)

    def _verify(self, cited: Sequence[str]) -> Explanation:
        return self._build(cited, self._without(cited), self._alone(cited))

    def _build(self, cited: Sequence[str], without: Trial, alone: Trial) -> Explanation:
        strongest = sorted(cited, key=lambda name: -self._effects[name])
        return Explanation(
            cited={name: self._effects[name] for name in strongest},
            whole=self._whole,
            without=without,
            alone=alone,
            threshold=self._threshold,
            passes=self._passes,
        )

    def _without(self, cited: Collection[str]) -> Trial:
        channels = self._channels.copy()
        for name in cited:
            channels[:, self._block(name)] = 0
        return self._play(channels)

    def _alone(self, cited: Collection[str]) -> Trial:
        channels = np.zeros_like(self._channels)
        for name in cited:
            channels[:, self._block(name)] = self._channels[:, self._block(name)]
        return self._play(channels)

    def _block(self, name: str) -> slice:
        at = self._columns[name] * self._per
        return slice(at, at + self._per)

    def _play(self, channels: FloatArray) -> Trial:
        self._passes += 1
        return self._session.trial(self._field, channels)
