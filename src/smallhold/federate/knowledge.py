"""A knowledge pack out of a finished job that counts: what was released, less what is below the minimum cohort.

Everything here works on what is noisy already, so that nothing of it costs privacy: reading, withholding, signing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from smallhold.device.knowledge import KnowledgePack
from smallhold.device.trust import load_public_key
from smallhold.errors import FederationError, InputError
from smallhold.federate.job import FederatedJob
from smallhold.federate.person_privacy import person_budget
from smallhold.federate.receipt import FOLDER, PUBLIC_KEY, read_receipt
from smallhold.federate.verify import verify_run
from smallhold.records import sha256_hex

_LONGEST_DAYS = 3653  # ten years


def make_pack(job: FederatedJob, folder: Path, *, data: str, created: datetime, valid_days: float) -> KnowledgePack:
    """The pack of a job's counts.

    Args:
        job: As it was carried out.
        folder: Of the server's state.
        data: What was counted in, for whoever reads the pack.
        created: Now, in UTC.
        valid_days: For how long devices may use it, above 0.

    Raises:
        FederationError: the job counts nothing, adds no noise or is not finished; the folder holds another, or is not
            what its journal says.
        JournalError: there is no journal, or its chain is broken.
        InputError: `valid_days` is out of range.
    """
    statistics = job.statistics
    if not 0 < valid_days <= _LONGEST_DAYS:
        raise InputError(f"valid_days: expected above 0 and at most {_LONGEST_DAYS}, got {valid_days}")
    if not statistics.stddev:
        raise FederationError(
            f"job {job.name}: expected [statistics] with a noise_multiplier: a pack holds no exact counts",
            hint="counts without noise tell of single persons, also when small ones are withheld",
        )
    report = verify_run(folder)
    if report["problems"]:
        raise FederationError(
            f"{folder}: {report['problems'][0]}", hint=f"smallhold federate verify {folder.parent} says all of it"
        )
    if not report["summary"]["is_finished"]:
        raise FederationError(f"job {job.name}: not finished", hint="smallhold federate run goes on with it")
    path = folder / FOLDER / "0.dsse.json"
    signed = path.read_bytes()
    receipt = read_receipt(signed, load_public_key(folder / PUBLIC_KEY), name=str(path))
    if receipt["job"]["digest"] != job.digest:
        raise FederationError(f"{folder}: holds another job than {job.name}, or another version of it")
    counts = np.rint(load((folder / "models" / "1.safetensors").read_bytes())["model"]).astype(np.int64)
    sites, budget = len(receipt["updates"]), person_budget(job)
    return KnowledgePack(
        name=job.name,
        data=data,
        created=_time(created),
        valid_until=_time(created + timedelta(days=valid_days)),
        dimensions=statistics.dimensions,
        counts=tuple(count if count >= statistics.min_cohort else None for count in counts.tolist()),
        stddev=job.stddev_of(sites),
        min_cohort=statistics.min_cohort,
        max_cells=statistics.max_cells,
        sites=sites,
        noise="sites" if job.upload.secure else "server",
        epsilon=budget.cost(1),
        delta=statistics.delta,
        job=job.digest,
        receipt=sha256_hex(signed),
    )


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
