"""At the bed: gate, floor, the model beside it, policy, alarms, and the replay of recorded patients."""

from smallhold.assist.alarm import AlarmChange, AlarmManager, AlarmTimes, Change, Harm, Onset, priority_of
from smallhold.assist.bedside import Bedside, Ward
from smallhold.assist.context import Context
from smallhold.assist.drift import DriftMonitor
from smallhold.assist.drift_reference import DriftReference, fit_drift_reference
from smallhold.assist.floor import FloorRules, FloorState, PartWords, ScoreRule, propose
from smallhold.assist.gate import Gate, Limits, Tolerances, reason_id
from smallhold.assist.policy import Profile, decide, load_profile
from smallhold.assist.replay import ReplayPlan, replay
from smallhold.assist.replay_summary import Latency, ReplaySummary
from smallhold.assist.specialist import Question, Specialist, Watchdog, validate_risk
from smallhold.assist.step import Step, trace_id

__all__ = [
    "AlarmChange",
    "AlarmManager",
    "AlarmTimes",
    "Bedside",
    "Change",
    "Context",
    "DriftMonitor",
    "DriftReference",
    "FloorRules",
    "FloorState",
    "Gate",
    "Harm",
    "Latency",
    "Limits",
    "Onset",
    "PartWords",
    "Profile",
    "Question",
    "ReplayPlan",
    "ReplaySummary",
    "ScoreRule",
    "Specialist",
    "Step",
    "Tolerances",
    "Ward",
    "Watchdog",
    "decide",
    "fit_drift_reference",
    "load_profile",
    "priority_of",
    "propose",
    "reason_id",
    "replay",
    "trace_id",
    "validate_risk",
]
