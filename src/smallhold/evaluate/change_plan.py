"""A predetermined change control plan as data: what an update may change, and what it has to show before it runs.

After the FDA's guidance on predetermined change control plans for AI-enabled device software functions (final, December
2024): a description of modifications, a modification protocol, an impact assessment. The plan is a TOML file in the
home, `change-plan.toml`; where there is one, `device install` refuses a bundle that is not inside it::

    format = 1
    name = "ward 3"
    version = "1.0.0"
    note = "who decided this, and when it is looked at again"
    may_change = ["alert_threshold", "calibration", "training_data"]    # the weights always may; see `COMPONENTS`

    [data]                              # the site's own patients with a known outcome
    folder = "data"                     # relative to this file, as for --data
    split = "test"                      # train, calibration, validation, test or all

    [[check]]
    task = "icu-risk"
    hours = 24
    metric = "sensitivity"              # see `METRICS`
    at_least = 0.5                      # and at_most: bounds for the new bundle
    most_fall = 0.02                    # and most_rise: against the bundle that runs
    subgroups = ["sex", "age", "unit"]  # each group with ten of either outcome as well; default: none

Thresholds apply as the bundle ships them. A bound against the bundle that runs does not apply to the first install.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import LocalBundle, LocalTask, open_bundle
from smallhold.decide.plan import calibrate_logits
from smallhold.decide.signal import encode_stays
from smallhold.decide.task import Task
from smallhold.errors import PolicyError, RecipeError
from smallhold.evaluate import metrics
from smallhold.evaluate.subgroups import LEAST_OF_EITHER_OUTCOME, groups_of
from smallhold.records import sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split

#: What may be allowed to differ from the bundle that runs.
COMPONENTS = ("tasks", "question", "choices", "inputs", "alert_threshold", "calibration", "base", "training_data")
METRICS = ("sensitivity", "specificity", "ppv", "alert_rate", "auroc")
SUBGROUPS = ("sex", "age", "unit")
_BOUNDS = ("at_least", "at_most", "most_fall", "most_rise")
_FORMAT = 1
_SPLITS = ("train", "calibration", "validation", "test", "all")

Bools = NDArray[np.bool_]
#: What a bundle said about a task after some hours, so that checks of the same answers ask once.
_Seen = dict[tuple[str, str, int], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure and its bounds; a bound that is None does not apply."""

    task: str
    hours: int
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    most_fall: float | None = None
    most_rise: float | None = None
    subgroups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """A plan as its file says it.

    Attributes:
        digest: SHA-256 of the file.
        may_change: Of `COMPONENTS`.
        folder: Of the site's own patients.
        split: Which of them.
        checks: All have to hold.
    """

    name: str
    version: str
    note: str
    digest: str
    may_change: tuple[str, ...]
    folder: Path
    split: Split | Literal["all"]
    checks: tuple[Check, ...]


def read_change_plan(path: Path) -> ChangePlan:
    """Read and check a plan.

    Raises:
        RecipeError: it cannot be read, or an entry is unknown, missing or impossible; the message names it.
    """
    try:
        data = path.read_bytes()
        value = tomllib.loads(data.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"change plan {path} cannot be read: {error}") from error
    where = f"change plan {path.name}"
    _members(where, value, ("format", "name", "version", "note", "may_change", "data", "check"))
    if value["format"] != _FORMAT:
        raise RecipeError(f"{where}: format {value['format']!r} is not supported: expected {_FORMAT}")
    _members(f"{where}: data", value["data"], ("folder", "split"))
    split = value["data"]["split"]
    if split not in _SPLITS:
        raise RecipeError(f"{where}: data.split: expected one of {', '.join(_SPLITS)}, got {split!r}")
    texts = {name: value[name] for name in ("name", "version", "note")}
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise RecipeError(f"{where}: {name}: expected a text, got {text!r}")
    if not isinstance(value["check"], list) or not value["check"]:
        raise RecipeError(f"{where}: expected one [[check]] or more: a plan that checks nothing protects nobody")
    return ChangePlan(
        **texts,
        digest=sha256_hex(data),
        may_change=_known(f"{where}: may_change", value["may_change"], COMPONENTS),
        folder=path.parent / str(value["data"]["folder"]),
        split=split,
        checks=tuple(_read_check(f"{where}: check[{i}]", item) for i, item in enumerate(value["check"])),
    )


def check_change(plan: ChangePlan, offered: Path, active: Path | None) -> list[str]:
    """Hold a bundle against a plan.

    Args:
        plan: From `read_change_plan`.
        offered: A verified bundle.
        active: The bundle that runs, None before the first install.

    Returns:
        A line for each check that held.

    Raises:
        PolicyError: the bundle is outside the plan; the message lists everything that is.
        DataError: the site's patients cannot be read. What cannot be checked is not installed.
        RecipeError: a check asks for a task or an hour that does not exist.
    """
    new = open_bundle(offered, unsafe_skip_verification=True)
    old = None if active is None else open_bundle(active, unsafe_skip_verification=True)
    wrong = [] if old is None else [item for item in _changes(old, new) if item.split(":")[0] not in plan.may_change]
    if wrong:  # what answers another question is not measured on this one
        raise PolicyError(_outside(plan, new, wrong))
    stays = [stay for stay in icu_risk.split(icu_risk.load_stays(plan.folder), plan.split) if stay.died is not None]
    held: list[str] = []
    seen: _Seen = {}
    for check in plan.checks:
        told = _figures(new, check, stays, seen)
        before = {} if old is None or check.task not in old.manifest.tasks else _figures(old, check, stays, seen)
        for group, figure in told.items():
            line = f"{check.task} {check.metric} at {check.hours} h, {group}: {figure:.3f}"
            broken = _broken(check, figure, before.get(group))
            (wrong if broken else held).append(line + (f", {'; '.join(broken)}" if broken else ""))
    if wrong:
        raise PolicyError(_outside(plan, new, wrong))
    return held


def _outside(plan: ChangePlan, new: LocalBundle, wrong: Sequence[str]) -> str:
    return (
        f"bundle {new.manifest.name} {new.manifest.version} is outside the change plan {plan.name} {plan.version}: "
        f"{'. '.join(wrong)}"
    )


def _changes(old: LocalBundle, new: LocalBundle) -> list[str]:
    """What differs, `component: how`."""
    found = []
    if set(old.manifest.tasks) != set(new.manifest.tasks):
        found.append(f"tasks: {', '.join(old.manifest.tasks)} became {', '.join(new.manifest.tasks)}")
    if old.manifest.base_digest != new.manifest.base_digest:
        found.append(f"base: {old.manifest.base_digest[:12]} became {new.manifest.base_digest[:12]}")
    if set(old.manifest.training_data) != set(new.manifest.training_data):
        found.append(f"training_data: {sorted(set(old.manifest.training_data) ^ set(new.manifest.training_data))}")
    for name in sorted(set(old.manifest.tasks) & set(new.manifest.tasks)):
        found += [f"{part}: of task {name}" for part in _task_changes(old.task(name).task, new.task(name).task)]
    return found


def _task_changes(old: Task, new: Task) -> list[str]:
    def parts(task: Task) -> dict[str, Any]:
        fields = {field.name: field for field in task.fields}
        return {
            "question": task.question,
            "choices": {name: (field.choices, field.positive) for name, field in fields.items()},
            "inputs": (task.signal.parameters, task.signal.static, task.signal.bin_minutes, task.num_bins, task.text),
            "alert_threshold": {name: field.alert_threshold for name, field in fields.items()},
            # Everything else that is fitted: abstention, temperature, maps and promises.
            "calibration": {
                name: (field.temperature, field.abstain_below, field.bias, field.knots, field.conformal)
                for name, field in fields.items()
            },
        }

    before, after = parts(old), parts(new)
    return [name for name in before if before[name] != after[name]]


def _figures(bundle: LocalBundle, check: Check, stays: Sequence[Stay], seen: _Seen) -> dict[str, float]:
    """Figure for everybody and for each group that is large enough."""
    local = bundle.signal_task(check.task)
    if not 1 <= check.hours <= local.task.num_bins:
        raise RecipeError(f"change plan: task {check.task} answers at 1 to {local.task.num_bins} h, got {check.hours}")
    died = np.array([bool(stay.died) for stay in stays])
    key = (bundle.manifest.digest, check.task, check.hours)
    probability = seen[key] = seen[key] if key in seen else _probabilities(local, stays, check.hours)
    called = probability >= local.task.fields[0].alert_threshold
    everybody = np.ones(len(stays), dtype=bool)
    groups = [("everybody", everybody)]
    groups += [(f"{kind} {group}", member) for kind, group, member in groups_of(stays) if kind in check.subgroups]
    found = {}
    for name, member in groups:
        events = int(died[member].sum())
        if min(events, int(member.sum()) - events) >= LEAST_OF_EITHER_OUTCOME:
            found[name] = _figure(check.metric, died[member], called[member], probability[member])
    if "everybody" not in found:
        raise RecipeError(
            f"change plan: expected {LEAST_OF_EITHER_OUTCOME} patients of either outcome to check {check.task} on, got "
            f"{int(died.sum())} with the event and {int((~died).sum())} without"
        )
    return found


def _probabilities(local: LocalTask, stays: Sequence[Stay], hours: int) -> NDArray[np.float64]:
    field = local.task.fields[0]
    positive = field.choices.index(field.positive)
    found = np.empty(len(stays))
    for i, stay in enumerate(stays):
        channels = encode_stays(local.task.signal, [(stay.minute, stay.code, stay.value)], hours)[0]
        logits = local.logits(channels, icu_risk.static_features(stay), [hours])[field.name]
        found[i] = calibrate_logits(field, logits)[0, positive]
    return found


def _figure(metric: str, died: Bools, called: Bools, probability: NDArray[np.float64]) -> float:
    match metric:
        case "sensitivity":
            return float(called[died].mean())
        case "specificity":
            return float((~called[~died]).mean())
        case "ppv":
            return float(died[called].mean()) if called.any() else 0.0
        case "alert_rate":
            return float(called.mean())
        case _:
            return metrics.auroc(died, probability)


def _broken(check: Check, figure: float, before: float | None) -> list[str]:
    broken = []
    if check.at_least is not None and figure < check.at_least:
        broken.append(f"expected at least {check.at_least:g}")
    if check.at_most is not None and figure > check.at_most:
        broken.append(f"expected at most {check.at_most:g}")
    if before is not None:
        if check.most_fall is not None and before - figure > check.most_fall:
            broken.append(f"was {before:.3f}, may fall by {check.most_fall:g}")
        if check.most_rise is not None and figure - before > check.most_rise:
            broken.append(f"was {before:.3f}, may rise by {check.most_rise:g}")
    return broken


def _read_check(where: str, value: Any) -> Check:
    _members(where, value, ("task", "hours", "metric"), (*_BOUNDS, "subgroups"))
    metric, hours = value["metric"], value["hours"]
    if metric not in METRICS:
        raise RecipeError(f"{where}: metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    if type(hours) is not int or hours < 1:
        raise RecipeError(f"{where}: hours: expected a whole number of 1 or more, got {hours!r}")
    bounds = {name: value[name] for name in _BOUNDS if name in value}
    if not bounds:
        raise RecipeError(f"{where}: expected one of {', '.join(_BOUNDS)}")
    for name, bound in bounds.items():
        if type(bound) not in (int, float) or not 0 <= bound <= 1:
            raise RecipeError(f"{where}: {name}: expected a number from 0 to 1, got {bound!r}")
    groups = _known(f"{where}: subgroups", value.get("subgroups", []), SUBGROUPS)
    return Check(task=str(value["task"]), hours=hours, metric=metric, subgroups=groups, **bounds)


def _members(where: str, value: Any, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a table, got {value!r}")
    missing, extra = sorted(set(required) - set(value)), sorted(set(value) - {*required, *optional})
    if missing or extra:
        raise RecipeError(f"{where}: missing entries {missing}, unknown entries {extra}")


def _known(where: str, value: Any, allowed: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(item in allowed for item in value):
        raise RecipeError(f"{where}: expected a list of {', '.join(allowed)}, got {value!r}")
    return tuple(value)
