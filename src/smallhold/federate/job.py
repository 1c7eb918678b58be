"""One federated job: what is learnt, by whom, and how updates become a model. The same file on every engine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from smallhold.errors import RecipeError
from smallhold.federate.messages import is_site_name
from smallhold.federate.statistics import StatisticsChoice
from smallhold.privacy.plan import (
    CLIP,
    DISCRETE_NOISE,
    ENCRYPT,
    FIXED_POINT,
    MASK,
    QUANTIZE,
    TOP_K,
    Aggregate,
    plan_filters,
)
from smallhold.privacy.secure_sum.config import MIN_SITES
from smallhold.records import canonical_json, sha256_hex
from smallhold.teach.recipe_file import parse_toml

_SHIPPED = files("smallhold.federate") / "jobs"
_METHODS = ("mean", "trimmed_mean", "krum", "sum")
_OPTIMIZERS = ("none", "adam")
#: Every site of a secure sum gets what all sites say to all others.
MOST_SECURE_SITES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalChoice:
    """How a site trains between two rounds.

    Attributes:
        epochs: Passes over the site's rows.
        batch_size: Rows a step.
        learning_rate: Of plain gradient descent, or of AdamW where the task uses it.
        proximal: mu of FedProx (Li et al. 2020, arXiv:1812.06127, equation 2): pulls towards the global model; 0 is
            FedAvg.
        rank: Of LoRA adapters, for tasks that have them; 0 trains what the task trains without.
    """

    epochs: float = 1.0
    batch_size: int = 32
    learning_rate: float = 0.1
    proximal: float = 0.0
    rank: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"local.{name}: expected a number above 0, got {getattr(self, name)}")
        if self.proximal < 0:
            raise RecipeError(f"local.proximal: expected 0 or more, got {self.proximal}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationChoice:
    """How updates become one step of the global model; see `federate.aggregate`.

    Attributes:
        method: `mean` (weighted by examples), `trimmed_mean` or `krum`; `sum` for statistics, which are added.
        max_examples: A site that says it has more counts as this many; 0 believes every site.
        trim: Share cut off at either end of every coordinate.
        byzantine: f of Krum: sites that may lie.
        optimizer: `none` adds the aggregate; `adam` is FedAdam.
        learning_rate: Of the server.
    """

    method: str = "mean"
    max_examples: int = 0
    trim: float = 0.2
    byzantine: int = 0
    optimizer: str = "none"
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        for name, allowed in (("method", _METHODS), ("optimizer", _OPTIMIZERS)):
            if getattr(self, name) not in allowed:
                raise RecipeError(
                    f"aggregation.{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if not 0 <= self.max_examples < 2**53:
            raise RecipeError(f"aggregation.max_examples: expected 0 or more, got {self.max_examples}")
        if not 0 <= self.trim < 0.5:
            raise RecipeError(f"aggregation.trim: expected a share in [0, 0.5), got {self.trim}")
        if not self.learning_rate > 0:
            raise RecipeError(f"aggregation.learning_rate: expected a number above 0, got {self.learning_rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadChoice:
    """How an update travels.

    Attributes:
        bits: 0 sends float32; 8 and 4 round it in groups, at random and without bias.
        top_k: Share of the numbers that is sent, the largest; the site remembers the others for later rounds. 0 sends
            all.
        secure: Whether the server sees the sum of the updates and no single one, by masks of which no party alone can
            take one off.
        key_holder: The site for whose key all sites encrypt; the server adds ciphertexts, and this site decrypts the
            sum. Empty encrypts nothing.
    """

    bits: int = 0
    top_k: float = 0.0
    secure: bool = False
    key_holder: str = ""

    def __post_init__(self) -> None:
        """Refuse other widths and shares."""
        if self.bits not in (0, 4, 8):
            raise RecipeError(f"upload.bits: expected 0, 4 or 8, got {self.bits}")
        if not 0 <= self.top_k < 1:
            raise RecipeError(f"upload.top_k: expected a share in [0, 1), got {self.top_k}")

    @property
    def is_hidden(self) -> bool:
        """Whether the server sees sums alone."""
        return self.secure or bool(self.key_holder)

    @property
    def hidden_by(self) -> str:
        """The key that asks for it, for messages."""
        return "upload.secure" if self.secure else "upload.key_holder"

    def count(self, size: int) -> int:
        """k: how many of P numbers are sent with `top_k`."""
        return max(1, round(self.top_k * size))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyChoice:
    """Differential privacy of a site: what the models say about whether a site took part, all its rows together.

    DP-FedAvg with the noise at the server (McMahan et al. 2018, arXiv:1710.06963): updates are clipped, every site
    counts alike, and Gaussian noise is added to their sum. The server is trusted with the updates.

    Attributes:
        clip_norm: Most L2 norm of an update; 0 promises nothing.
        noise_multiplier: Standard deviation of the noise on the sum, in clip norms.
        epsilon: Budget; the round that would exceed it is refused.
        delta: Of the budget.
    """

    clip_norm: float = 0.0
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse promises that nothing stands behind."""
        if min(self.clip_norm, self.noise_multiplier, self.epsilon) < 0:
            raise RecipeError(f"privacy: expected numbers of 0 or more, got {self}")
        if not 0 < self.delta < 1:
            raise RecipeError(f"privacy.delta: expected a number above 0 and below 1, got {self.delta}")
        if bool(self.noise_multiplier) != bool(self.epsilon):
            raise RecipeError("privacy: noise_multiplier and epsilon belong together: noise, and the budget it spends")
        if self.noise_multiplier and not self.clip_norm:
            raise RecipeError("privacy.clip_norm: without a bound on an update no noise gives differential privacy")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPrivacyChoice:
    """Differential privacy of a record: what a site's updates say about whether one row took part (DP-SGD).

    Attributes:
        clip_norm: Most L2 norm of one record's gradient; 0 promises nothing.
        noise_multiplier: Standard deviation of the noise on the sum of a step, in clip norms.
        epsilon: Budget of a site in the job; the round that would exceed it is refused.
        delta: Of the budget.
    """

    clip_norm: float = 0.0
    noise_multiplier: float = 0.0
    epsilon: float = 0.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse promises that nothing stands behind."""
        numbers = (self.clip_norm, self.noise_multiplier, self.epsilon)
        if min(numbers) < 0 or any(numbers) != all(numbers):
            raise RecipeError(
                f"record_privacy: clip_norm, noise_multiplier and epsilon belong together, above 0, got {self}"
            )
        if not 0 < self.delta < 1:
            raise RecipeError(f"record_privacy.delta: expected a number above 0 and below 1, got {self.delta}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedJob:
    """Everything that determines a job, apart from the data.

    Attributes:
        name: Of the job.
        task: What is learnt; see `federate.tasks`.
        base: Folder of the base's checkpoint, for tasks that adapt one; every site has its own copy.
        sites: Who may take part.
        rounds: Rounds in all.
        cohort: Sites asked in each round, drawn by the seed; 0 asks all.
        quorum: Fewest updates that close a round; 0 wants the whole cohort.
        deadline_seconds: After which a round with a quorum closes without the others, and one without fails.
        seed: Of the initial model, the cohorts and the sites' batches.
        local: How a site trains.
        aggregation: How updates become a step.
        upload: How updates travel.
        privacy: What the models may say about a site.
        record_privacy: What a site's updates may say about one of its records.
        statistics: What is counted, where the job counts instead of training.
    """

    name: str
    task: str
    sites: tuple[str, ...]
    base: str = "models/base"
    rounds: int = 10
    cohort: int = 0
    quorum: int = 0
    deadline_seconds: float = 600.0
    seed: int = 0
    local: LocalChoice = field(default_factory=LocalChoice)
    aggregation: AggregationChoice = field(default_factory=AggregationChoice)
    upload: UploadChoice = field(default_factory=UploadChoice)
    privacy: PrivacyChoice = field(default_factory=PrivacyChoice)
    record_privacy: RecordPrivacyChoice = field(default_factory=RecordPrivacyChoice)
    statistics: StatisticsChoice = field(default_factory=StatisticsChoice)

    def __post_init__(self) -> None:
        """Refuse a job that cannot be carried out, before anybody is asked."""
        for site in self.sites:
            if not is_site_name(site):
                raise RecipeError(f"sites: expected lower-case letters, digits, '-', '_' and '.', got {site!r}")
        if len(set(self.sites)) != len(self.sites) or not self.sites:
            raise RecipeError(f"sites: expected at least one, each once, got {list(self.sites)}")
        if not 1 <= self.rounds <= 100_000:
            raise RecipeError(f"rounds: expected 1 to 100000, got {self.rounds}")
        if not 0 <= self.cohort <= len(self.sites):
            raise RecipeError(f"cohort: expected at most the {len(self.sites)} sites, got {self.cohort}")
        if not 0 <= self.quorum <= self.cohort_size:
            raise RecipeError(f"quorum: expected at most the cohort of {self.cohort_size}, got {self.quorum}")
        if not 0 < self.deadline_seconds <= 30 * 86_400:
            raise RecipeError(f"deadline_seconds: expected a number up to 30 days, got {self.deadline_seconds}")
        if self.aggregation.method == "krum" and self.least < 2 * self.aggregation.byzantine + 3:
            raise RecipeError(
                f"aggregation.byzantine: Krum needs 2 f + 3 = {2 * self.aggregation.byzantine + 3} updates a round, "
                f"and a quorum of {self.least} may close one"
            )
        if self.aggregation.method == "trimmed_mean" and int(self.aggregation.trim * self.least) == 0:
            raise RecipeError(f"aggregation.trim: {self.aggregation.trim} of {self.least} updates cuts nobody off")
        if self.aggregation.method == "trimmed_mean" and self.upload.top_k:
            raise RecipeError(
                "upload.top_k with aggregation.method = 'trimmed_mean': each site sends other positions, so that what "
                "is cut off at the ends of a coordinate is all that was sent",
                hint="send all numbers, or take a mean",
            )
        self._check_statistics()
        self._check_filters()
        if self.upload.is_hidden:
            self._check_hidden()
        if self.privacy.noise_multiplier and self.aggregation.method != "mean":
            raise RecipeError(
                f"aggregation.method: the sensitivity of {self.aggregation.method} is not bounded by the clip norm; "
                "expected 'mean' where privacy.noise_multiplier is set"
            )

    def _check_statistics(self) -> None:
        """Refuse what would make counts something else than counts."""
        if (self.aggregation.method == "sum") != self.is_counting:
            raise RecipeError(
                f"aggregation.method: expected 'sum' with [statistics] and only there, got {self.aggregation.method!r}"
            )
        if not self.is_counting:
            return
        if self.rounds != 1:
            raise RecipeError(f"rounds: expected 1 with [statistics], got {self.rounds}: another would count all again")
        plain = {
            "aggregation": replace(AggregationChoice(method="sum"), trim=self.aggregation.trim),
            "upload": UploadChoice(secure=self.upload.secure),
            "privacy": PrivacyChoice(delta=self.privacy.delta),
            "record_privacy": RecordPrivacyChoice(delta=self.record_privacy.delta),
        }
        for name, expected in plain.items():
            if getattr(self, name) != expected:
                raise RecipeError(
                    f"{name}: with [statistics] expected {expected}, got {getattr(self, name)}",
                    hint="counts are bounded by statistics.max_cells and blurred by statistics.noise_multiplier",
                )
        self.statistics.check_room(self.cohort_size, self.stddev_of(self.cohort_size))

    def _check_filters(self) -> None:
        """Refuse filters that do not go together, by the names of their keys."""
        upload = self.upload
        asked = {
            replace(CLIP, key="privacy.clip_norm"): self.privacy.clip_norm,
            replace(CLIP, key="statistics.max_cells"): self.is_counting,
            replace(DISCRETE_NOISE, key="statistics.noise_multiplier"): upload.secure and self.statistics.stddev,
            replace(TOP_K, key="upload.top_k"): upload.top_k,
            replace(QUANTIZE, key="upload.bits"): upload.bits,
            FIXED_POINT: upload.is_hidden and not upload.bits,
            replace(MASK, key="upload.secure"): upload.secure,
            replace(ENCRYPT, key="upload.key_holder"): upload.key_holder,
        }
        methods: dict[str, Aggregate] = {
            "mean": "weighted_mean",
            "trimmed_mean": "trimmed_mean",
            "krum": "krum",
            "sum": "sum",
        }
        plan_filters(
            [step for step, is_asked in asked.items() if is_asked],
            aggregate=methods[self.aggregation.method],
            has_server_noise=upload.is_hidden and bool(self.privacy.noise_multiplier),
            aggregate_key="aggregation.method",
            noise_key="privacy.noise_multiplier",
        )

    def _check_hidden(self) -> None:
        """Refuse what a sum that hides its summands cannot be of."""
        key, least = self.upload.hidden_by, self.least
        if not MIN_SITES <= self.cohort_size <= MOST_SECURE_SITES:
            raise RecipeError(
                f"{key}: expected {MIN_SITES} to {MOST_SECURE_SITES} sites a round, got {self.cohort_size}",
                hint="name a cohort" if self.cohort_size > MOST_SECURE_SITES else None,
            )
        if self.upload.secure and 3 * least <= 2 * self.cohort_size:
            raise RecipeError(
                f"quorum: with upload.secure expected more than two thirds of the cohort of {self.cohort_size}, got "
                f"{least}: fewer could be two sums, of which the difference shows a site"
            )
        if self.upload.key_holder:
            self._check_key_holder()
        if self.is_counting:  # counts are bounded, and weigh nothing
            return
        if not self.privacy.clip_norm:
            raise RecipeError(f"privacy.clip_norm: {key} needs a bound on the numbers that are added")
        if not self.aggregation.max_examples and not self.record_privacy.epsilon:
            raise RecipeError(f"aggregation.max_examples: {key} needs a bound on the weight of a site")

    def _check_key_holder(self) -> None:
        if self.upload.key_holder not in self.sites:
            raise RecipeError(
                f"upload.key_holder: expected one of {', '.join(self.sites)}, got {self.upload.key_holder!r}"
            )
        if self.cohort_size < len(self.sites):
            raise RecipeError(f"cohort: {self.upload.key_holder} opens the sum of every round; ask all sites")
        if self.least < MIN_SITES:
            raise RecipeError(
                f"quorum: with upload.key_holder expected at least {MIN_SITES}, got {self.least}: a sum of two shows "
                "each the other"
            )

    @property
    def is_counting(self) -> bool:
        """Whether the job counts instead of training."""
        return bool(self.statistics.dimensions)

    @property
    def tells_examples(self) -> bool:
        """Whether updates say of how many examples they speak, and how well those fit."""
        return not self.is_counting and not self.record_privacy.epsilon

    def stddev_of(self, sites: int) -> float:
        """Standard deviation of the noise in the sum of so many sites' counts, in persons.

        The server's is the same for any number. Under secure sums each site adds a share, so much that those of the
        quorum are enough: those of more are more.
        """
        return self.statistics.stddev * (math.sqrt(sites / self.least) if self.upload.secure else 1)

    @property
    def cohort_size(self) -> int:
        """Sites asked in each round."""
        return self.cohort or len(self.sites)

    @property
    def least(self) -> int:
        """Fewest updates that close a round."""
        return self.quorum or self.cohort_size

    @property
    def digest(self) -> str:
        """SHA-256 of the job."""
        return _digest_of(self)


def draw_cohort(job: FederatedJob, number: int) -> tuple[str, ...]:
    """Sites that a round asks, by name; drawn anew for every round by the job's seed."""
    if job.cohort_size == len(job.sites):
        return tuple(sorted(job.sites))
    rng = np.random.default_rng([job.seed, 11, number])
    return tuple(sorted(rng.choice(sorted(job.sites), job.cohort_size, replace=False).tolist()))


@lru_cache(maxsize=16)  # asked for with every message; of ten thousand sites it takes a fiftieth of a second
def _digest_of(job: FederatedJob) -> str:
    return sha256_hex(canonical_json(asdict(job)))


def read_job(name_or_path: str | Path) -> FederatedJob:
    """Read a job file, or one that is shipped, by name.

    Raises:
        RecipeError: no such file, not TOML, an unknown key or an impossible value.
    """
    return parse_toml(FederatedJob, read_job_text(name_or_path), where=str(name_or_path))


def read_job_text(name_or_path: str | Path) -> str:
    """A job file, or one that is shipped, as it stands.

    Raises:
        RecipeError: no such file, or not UTF-8.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        shipped = {item.name.removesuffix(".toml"): item for item in _SHIPPED.iterdir() if item.name.endswith(".toml")}
        if str(name_or_path) not in shipped:
            raise RecipeError(
                f"job {str(name_or_path)!r}: expected a .toml file or one of {', '.join(sorted(shipped))}"
            )
        return shipped[str(name_or_path)].read_text()
    if not path.is_file():
        raise RecipeError(f"job {path}: no such file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"job {path}: not valid TOML: {error}") from error
