"""The records that travel between stages, from a reading to an audit entry.

All are frozen, hold plain values only, and name their units. Each carries a `Provenance`: one trace id for
everything that follows from one event, and the digests of the bundle and the profile that were in force.
`to_json` and `from_json` (module `codec`) turn them into versioned canonical JSON and back.

Times are integers in milliseconds on the clock that `Provenance.clock` names; durations say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

#: Marks a member that a record did not always have: an absent one reads as its default, which is not written.
ADDED = "is_added"
_IS_ADDED = {ADDED: True}


class Priority(StrEnum):
    """Alarm priority of IEC 60601-1-8, table 1; `INFO` is below the standard's scale."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class ActionClass(StrEnum):
    """What a proposal would do; the policy has one effect for each."""

    A0 = "A0"  # score or observe
    A1 = "A1"  # alert a clinician
    A2 = "A2"  # message the patient, nothing prescriptive
    A3 = "A3"  # propose an order to a clinician
    A4 = "A4"  # start a treatment that a signed, bounded standing order authorises
    A5 = "A5"  # start a new treatment


class Effect(StrEnum):
    """What the policy makes of an action, weakest first (`effect_rank`)."""

    AUTO = "auto"
    NOTIFY_WITH_VETO = "notify_with_veto"
    CONFIRM_ONE = "confirm_one"
    CONFIRM_TWO = "confirm_two"
    FORBID = "forbid"


def effect_rank(effect: Effect) -> int:
    """Position in the lattice, 0 (auto) to 4 (forbid); the maximum of several effects wins."""
    return list(Effect).index(effect)


class AlertState(StrEnum):
    """Where an alert stands."""

    ACTIVE = "active"
    LATCHED = "latched"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What every record carries.

    Attributes:
        trace_id: 32 hexadecimal digits, shared by all records that follow from one event (W3C Trace Context length).
        bundle: SHA-256 of the bundle's manifest, or None when no model is loaded.
        profile: SHA-256 of the policy profile, or None before a policy is involved.
        clock: Where the times come from: `utc` for a wall clock, `stay` for time since admission.
        simulated: True when the data come from the simulator and not from a person.
    """

    trace_id: str
    bundle: str | None = None
    profile: str | None = None
    clock: str = "utc"
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One reading of one signal of one patient.

    Attributes:
        id: Unique within the patient.
        patient: Pseudonymous identifier.
        code: What was measured, in the code system that `system` names.
        value: The number as received, in `unit`.
        unit: UCUM code, for example `/min`, `mm[Hg]`, `Cel`.
        t_measured_ms: When the reading was taken.
        t_received_ms: When it reached this machine.
        quality: `good`, or what the device said against it.
        device: Identifier of the device that measured, empty when unknown.
        system: `loinc`, or the name of a data set's own vocabulary.
    """

    id: str
    patient: str
    code: str
    value: float
    unit: str
    t_measured_ms: int
    t_received_ms: int
    quality: str = "good"
    device: str = ""
    system: str = "loinc"
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Whether an observation may be used, and every reason why not."""

    observation: str
    is_accepted: bool
    reasons: tuple[str, ...] = ()
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The stretch of time that one signal token summarises, (start_ms, end_ms]."""

    patient: str
    start_ms: int
    end_ms: int
    observations: tuple[str, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A deterministic score with its parts.

    Attributes:
        name: `news2`, ...
        total: Sum of the parts.
        parts: Points per parameter.
        band: The published band, for example `low`, `low-medium`, `medium`, `high`.
        missing: Parameters without a usable reading; they count 0 points, which understates the score.
    """

    name: str
    total: int
    parts: dict[str, int]
    band: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSet:
    """All deterministic scores of one patient at one moment."""

    patient: str
    t_ms: int
    scores: tuple[Score, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """What a model said, calibrated, with the choice to stay silent.

    Attributes:
        task: The task that was asked, for example `icu-risk`.
        field: The field of the decision schema.
        choice: The chosen closed value, or None when abstained.
        probabilities: Calibrated probability of every closed choice; they sum to 1.
        confidence: The largest of them.
        has_abstained: True when more than one answer is possible at the error that the bundle promises.
        horizon_h: Hours of record that the decision rests on.
        model: Which model spoke: `shipped`, `trees`, ...
        latency_ms: Wall time from the event to this record.
    """

    patient: str
    task: str
    field: str
    t_ms: int
    choice: str | None
    probabilities: dict[str, float]
    confidence: float
    has_abstained: bool
    horizon_h: int
    model: str
    latency_ms: float
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One signal that carried a decision, checked by deletion.

    Attributes:
        code: The parameter.
        observations: Identifiers of the observations shown; they exist in the journal.
        text: Value, unit and age in words.
        effect: Log-odds that the decision loses when the parameter is cleared from the newest bin.
        value: The reading shown, in the canonical unit; None where there is none.
        age_ms: How old it was.
    """

    code: str
    observations: tuple[str, ...]
    text: str
    effect: float
    value: float | None = field(default=None, metadata=_IS_ADDED)
    age_ms: int | None = field(default=None, metadata=_IS_ADDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionCheck:
    """What became of a decision when its evidence was deleted, and when everything else was, on the whole record.

    Attributes:
        margin: Log-odds of the choice that an alert is about, as decided.
        margin_without: The same without any reading of the cited parameters.
        margin_alone: The same with the cited parameters and what is known on admission alone.
        risk_without: Calibrated probability without them.
        risk_alone: Calibrated probability with them alone.
        is_necessary: Without them the margin falls.
        is_sufficient: They alone lead to the same action.
    """

    margin: float
    margin_without: float
    margin_alone: float
    risk_without: float
    risk_alone: float
    is_necessary: bool
    is_sufficient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """The smallest change of the newest readings with which nobody would have been called; re-decided, not guessed.

    Attributes:
        codes: Parameters that change, one or two; none when no change within plausible bounds was found.
        values: Their values, in canonical units, in the same order.
        risk: Calibrated probability then; None for a score.
        total: Of the score then; None for a model.
    """

    codes: tuple[str, ...]
    values: tuple[float, ...]
    risk: float | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a decision rests on, in words.

    Attributes:
        deletion: How the evidence stood up to deletion; None where it was not put to the test.
        counterfactual: None where it was not looked for.
    """

    patient: str
    t_ms: int
    text: str
    evidence: tuple[Evidence, ...]
    deletion: DeletionCheck | None = field(default=None, metadata=_IS_ADDED)
    counterfactual: Counterfactual | None = field(default=None, metadata=_IS_ADDED)
    provenance: Provenance

    @property
    def is_verified(self) -> bool:
        """Whether the evidence passed both tests; what did not is never shown as a fact."""
        return self.deletion is not None and self.deletion.is_necessary and self.deletion.is_sufficient


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that a sentence says, without language: a key of the word catalogues and what belongs into it."""

    key: str
    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a message says, without language: any catalogue makes a sentence of it (`assist.words`)."""

    key: str
    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    items: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An action that a score or a model suggests; it does nothing until a verdict allows it.

    Attributes:
        condition: What is suspected, for example `deterioration`.
        source: `floor`, `model`, or `gate` for technical conditions.
        is_degraded: True when the model was late, unsure, invalid or down and the floor spoke alone.
        rationale: The sentence, in the ward's language.
        facts: What it says, without language.
    """

    patient: str
    t_ms: int
    condition: str
    action: ActionClass
    priority: Priority
    source: str
    has_abstained: bool
    is_degraded: bool
    rationale: str
    evidence: tuple[Evidence, ...] = ()
    facts: Facts | None = field(default=None, metadata=_IS_ADDED)
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the policy makes of a proposal, with the clauses that say so."""

    action: ActionClass
    effect: Effect
    clauses: tuple[str, ...]
    obligations: tuple[str, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A call for a clinician's attention.

    Attributes:
        kind: `physiological` or `technical` (IEC 60601-1-8's two kinds of alarm condition).
        message: The sentence, in the ward's language.
        facts: What it says, without language.
    """

    id: str
    patient: str
    t_ms: int
    kind: str
    condition: str
    priority: Priority
    source: str
    is_degraded: bool
    message: str
    state: AlertState = AlertState.ACTIVE
    facts: Facts | None = field(default=None, metadata=_IS_ADDED)
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A proposal that waits for people.

    Attributes:
        confirmations: How many persons must agree.
        expires_ms: After this the question is void and nothing happens.
    """

    patient: str
    t_ms: int
    action: ActionClass
    question: str
    confirmations: int
    expires_ms: int
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A treatment under a standing order, inside its limits.

    Attributes:
        standing_order: Digest of the signed standing order.
        dose: Amount in `unit` as an integer count of the order's smallest step, so that ceilings compare exactly.
    """

    patient: str
    t_ms: int
    standing_order: str
    drug: str
    dose: int
    unit: str
    limits: dict[str, int] = field(default_factory=dict)
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What a person made of an alert or a proposal."""

    subject: str
    response: str  # accept, override or snooze
    reason: str
    actor: str
    t_ms: int
    response_time_ms: int
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One link of the journal's chain.

    Attributes:
        seq: 0, 1, 2, ... without gaps.
        t_ms: Wall clock when the entry was written.
        kind: What the payload is.
        payload_digest: SHA-256 over the payload's nonce and bytes; it stays when the payload is erased.
        prev: Hash of the entry before, 64 zeros for the first.
        hash: SHA-256 of the canonical JSON of all the other fields.
    """

    seq: int
    t_ms: int
    kind: str
    payload_digest: str
    prev: str
    hash: str


Record = (
    Observation | GateResult | Window | ScoreSet | Risk | Card | Proposal | Verdict | Alert | Ask | Order | Feedback
)
