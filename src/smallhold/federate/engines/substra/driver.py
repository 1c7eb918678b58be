"""Plans a job's tasks on Substra, round by round, and keeps the record of them. Runs in Substra's environment.

The rounds live in the resident server: a plan that was killed leaves nothing to mend, the next one goes on in the same
round. Substra's local backend carries tasks out one after another and writes permissions down without asking for them;
here they are asked for before a task is added.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import substra
from substra.sdk import exceptions, fs, models, schemas
from substra.sdk.backends.local.compute import spawner

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError, QuorumError, SmallholdError
from smallhold.federate.engines.substra.record import REFUSAL, read_plans, write_plans
from smallhold.federate.resident import ask_patiently

_ANSWER_SECONDS = 600.0
_ATTEMPTS = 3
_HERE = Path(__file__).parent
_DOCKERFILE = 'FROM python:3.11-slim\nENTRYPOINT ["python3", "functions.py", "--function-name", "{name}"]\n'
_MODEL = schemas.AssetKind.model


class Plan:
    """One compute plan: the organisations, what they registered, and the tasks of every round that is left."""

    def __init__(self, folder: Path, sockets: Path, sites: Sequence[str], mode: str) -> None:
        """Register everything; no task runs yet.

        Args:
            folder: Of Substra's files and the record; this process works in it.
            sockets: Where the resident processes listen.
            sites: Of the job.
            mode: `subprocess` or `memory`.
        """
        self._folder, self._sockets = folder, sockets
        self._status = self._ask_status()
        self._clients = {name: _client() for name in ("", *sites)}  # the server is the one without a site's name
        self._orgs = {name: client.organization_info().organization_id for name, client in self._clients.items()}
        everybody = list(self._orgs.values())
        optional = [(f"update-{site}", True) for site in sites]
        self._functions = {
            "begin": self._function("begin", [self._orgs[""]], [], "request"),
            "train": self._function("train", everybody, [("request", False)], "update"),
            "close_round": self._function("close_round", [self._orgs[""]], [("request", True), *optional], "request"),
        }
        self._samples = {site: self._sample(site) for site in sites}
        spec = schemas.ComputePlanSpec(name=str(self._status["job"]), tag=f"round {self._status['round']}")
        self._key = self._server.add_compute_plan(spec).key
        self._tasks: dict[str, dict[str, Any]] = {}
        self._path = folder / "compute-plan.json"
        self._plans = read_plans(self._path)
        self._plans.append(self._told(mode))

    @property
    def _server(self) -> substra.Client:
        return self._clients[""]

    def run(self) -> None:
        """Carry out all rounds that are left.

        Raises:
            QuorumError: too few sites gave an update, several times.
        """
        request, failed = "", 0
        while not self._status["is_finished"]:
            before = self._status
            request = request or self._add("begin", "", {})
            updates = self._train(request)
            self._write()  # before anything of it counts
            following = self._add("close_round", "", {"request": request, **updates})
            self._write()
            self._forget([request, *updates.values()])
            self._status, request = self._ask_status(), following
            now = {name: self._status[name] for name in ("round", "turn")}
            print(f"round {now['round']}, turn {now['turn']} begins, model {self._status['model'][:16]}", flush=True)
            failed = failed + 1 if now.items() <= before.items() else 0
            if failed == _ATTEMPTS:
                waiting = ", ".join(self._status["waiting_for"])
                raise QuorumError(
                    f"round {before['round']}: expected at least {before['least']} updates, asked {_ATTEMPTS} times; "
                    f"waiting for {waiting}",
                    hint="the log says why; run the same command again when they can answer",
                )

    def _train(self, request: str) -> dict[str, str]:
        """Ask the sites that the round waits for; input of `close_round` -> task, of those whose task did not fail."""
        deadline = time.monotonic() + self._status["deadline_seconds"]
        updates = {}
        for site in self._status["waiting_for"]:
            if time.monotonic() > deadline:
                break
            try:
                updates[f"update-{site}"] = self._add("train", site, {"request": request})
            except spawner.base.ExecutionError as error:
                print(f"round {self._status['round']}: the task of {site} failed: {error}", flush=True)
        return updates

    def _add(self, function: str, site: str, inputs: Mapping[str, str]) -> str:
        """Have one task carried out; returns its key.

        Args:
            function: Name of one of the functions.
            site: Whose task it is; empty for the server.
            inputs: Identifier -> task that gives it.
        """
        gives = "update" if function == "train" else "request"
        may_read = [self._orgs[""], *([self._orgs[site]] if site else map(self._orgs.get, self._samples))]
        refs = [
            schemas.InputRef(identifier=name, parent_task_key=parent, parent_task_output_identifier=_output(name))
            for name, parent in inputs.items()
        ]
        if site:
            dataset, sample = self._samples[site]
            refs.append(schemas.InputRef(identifier="opener", asset_key=dataset))
            refs.append(schemas.InputRef(identifier="datasamples", asset_key=sample))
        spec = schemas.ComputePlanTaskSpec(
            task_id=schemas.TaskSpec.compute_key(),
            function_key=self._functions[function],
            worker=self._orgs[site],
            metadata={"round": str(self._status["round"])},
            inputs=refs,
            outputs={gives: schemas.ComputeTaskOutputSpec(permissions=_private(may_read))},
        )
        self._check_allowed(spec)
        try:
            self._server.add_compute_plan_tasks(
                self._key, schemas.UpdateComputePlanTasksSpec(key=self._key, tasks=[spec])
            )
        finally:
            with contextlib.suppress(exceptions.NotFound):  # it was refused, or failed and is in the record as failed
                self._tasks[spec.task_id] = self._told_of_task(function, self._server.get_task(spec.task_id))
        return str(spec.task_id)

    def _check_allowed(self, spec: schemas.ComputePlanTaskSpec) -> None:
        """Whether worker and owner of a task may process all that it takes.

        Raises:
            FederationError: one may not.
        """
        taken = [("function", self._server.get_function(spec.function_key).permissions)]
        for ref in spec.inputs:
            if ref.parent_task_key:
                outputs = self._server.get_task(ref.parent_task_key).outputs
                taken.append((ref.identifier, outputs[ref.parent_task_output_identifier].permissions))
            elif ref.identifier == "opener":
                taken.append((ref.identifier, self._server.get_dataset(ref.asset_key).permissions))
        for what, permissions in taken:
            allowed, wanted = permissions.process.authorized_ids, {spec.worker, self._orgs[""]}
            if permissions.process.public or not wanted <= set(allowed):
                whom = "everybody" if permissions.process.public else ", ".join(sorted(allowed))
                raise FederationError(
                    f"task of {spec.worker}: {what} is open to {whom}; expected {' and '.join(sorted(wanted))} to be "
                    "allowed, and not everybody"
                )

    def _function(self, name: str, may_use: list[str], inputs: list[tuple[str, bool]], gives: str) -> str:
        """Register a function; its archive has the same bytes whenever it is made."""
        folder = self._folder / "functions" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / "function.tar.gz", [_archive(name)], mode=0o644)
        write_durably(folder / "description.md", [f"# {name}\n".encode()], mode=0o644)
        data = [("opener", schemas.AssetKind.data_manager), ("datasamples", schemas.AssetKind.data_sample)]
        spec = schemas.FunctionSpec(
            name=name,
            description=folder / "description.md",
            file=folder / "function.tar.gz",
            permissions=_private(may_use),
            inputs=[
                schemas.FunctionInputSpec(identifier=identifier, multiple=False, optional=optional, kind=_MODEL)
                for identifier, optional in inputs
            ]
            + [
                schemas.FunctionInputSpec(
                    identifier=identifier, multiple=identifier != "opener", optional=False, kind=kind
                )
                for identifier, kind in data
                if name == "train"
            ],
            outputs=[schemas.FunctionOutputSpec(identifier=gives, kind=_MODEL, multiple=False)],
        )
        return str(self._server.add_function(spec))

    def _sample(self, site: str) -> tuple[str, str]:
        """Register a site's card as its organisation: (dataset, data sample)."""
        folder = self._folder / "samples" / site
        folder.mkdir(parents=True, exist_ok=True)
        card = {"site": site, "job": self._status["job"], "deadline_seconds": self._status["deadline_seconds"]}
        write_durably(folder / "site.json", [json.dumps(card).encode()])
        client = self._clients[site]
        spec = schemas.DatasetSpec(
            name=f"site {site}",
            data_opener=_HERE / "opener.py",
            description=self._folder / "functions/train/description.md",
            permissions=_private([self._orgs[site], self._orgs[""]]),
            logs_permission=_private([self._orgs[site]]),
        )
        dataset = client.add_dataset(spec)
        return dataset, client.add_data_sample(schemas.DataSampleSpec(path=folder, data_manager_keys=[dataset]))

    def _forget(self, tasks: Sequence[str]) -> None:
        """Remove blobs that no later task takes: models and updates lie in the server's folder."""
        for key in tasks:
            for output in self._server.list_task_output_assets(key):
                Path(output.asset.address.storage_address).unlink(missing_ok=True)

    def _ask_status(self) -> dict[str, Any]:
        return ask_patiently(self._sockets / "server", {"ask": "status"}, timeout_seconds=_ANSWER_SECONDS)[0]

    def _write(self) -> None:
        self._plans[-1]["tasks"] = list(self._tasks.values())
        write_plans(self._path, self._plans)

    def _told(self, mode: str) -> dict[str, Any]:
        functions = map(self._server.get_function, self._functions.values())
        datasets = [(self._server.get_dataset(dataset), sample) for dataset, sample in self._samples.values()]
        return {
            "key": self._key,
            "substra": substra.__version__,
            "mode": mode,
            "job": self._status["job"],
            "begins_in_round": self._status["round"],
            "organisations": {
                org: {"role": "site" if name else "server", "site": name} for name, org in self._orgs.items()
            },
            "functions": [
                {
                    "key": found.key,
                    "name": found.name,
                    "owner": found.owner,
                    "checksum": found.archive.checksum,
                    "may_process": found.permissions.process.authorized_ids,
                }
                for found in functions
            ],
            "data": [
                {
                    "dataset": found.key,
                    "owner": found.owner,
                    "opener": found.opener.checksum,
                    "may_process": found.permissions.process.authorized_ids,
                    "sample": sample,
                    "card": fs.hash_directory(self._folder / "samples" / found.name.removeprefix("site ")),
                }
                for found, sample in datasets
            ],
            "tasks": [],
        }

    def _told_of_task(self, function: str, task: models.Task) -> dict[str, Any]:
        outputs = {}
        for output in self._server.list_task_output_assets(task.key):
            may_process = task.outputs[output.identifier].permissions.process.authorized_ids
            outputs[output.identifier] = {"checksum": output.asset.address.checksum, "may_process": may_process}
        is_done = task.status == models.ComputeTaskStatus.done
        return {
            "key": task.key,
            "rank": task.rank,
            "round": int(task.metadata["round"]),
            "function": function,
            "worker": task.worker,
            # A task that failed stays at "executing" in Substra's local backend.
            "status": task.status.value if is_done else models.ComputeTaskStatus.failed.value,
            "inputs": {ref.identifier: ref.asset_key or ref.parent_task_key for ref in task.inputs},
            "outputs": outputs,
            "began": task.start_date.astimezone(UTC).isoformat() if task.start_date else None,
            "ended": task.end_date.astimezone(UTC).isoformat() if task.end_date else None,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Carry a job out that resident processes hold; says in `REFUSAL` why it cannot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mode", choices=("subprocess", "memory"), required=True)
    parser.add_argument("--site", action="append", required=True)
    args = parser.parse_args(argv)
    os.umask(0o077)
    os.chdir(args.folder)  # Substra keeps its files in the folder where it runs
    shutil.rmtree("local-worker", ignore_errors=True)
    if args.mode == "memory":
        from smallhold.federate.engines.substra.memory import InThisProcess

        spawner.DEBUG_SPAWNER_CHOICES[schemas.BackendType.LOCAL_SUBPROCESS] = InThisProcess
    try:
        Plan(args.folder, Path(os.environ["SMALLHOLD_SOCKETS"]), sorted(args.site), args.mode).run()
    except SmallholdError as error:
        write_durably(args.folder / REFUSAL, [str(error).encode()])
        return 1
    finally:
        shutil.rmtree("local-worker", ignore_errors=True)
    return 0


def _client() -> substra.Client:
    """An organisation. An empty address keeps the client on this machine, whatever the environment says."""
    return substra.Client(backend_type=schemas.BackendType.LOCAL_SUBPROCESS, url="")


def _private(organisations: list[str]) -> schemas.Permissions:
    return schemas.Permissions(public=False, authorized_ids=list(organisations))


def _output(identifier: str) -> str:
    """Which output of a task is taken for an input of this name."""
    return "request" if identifier == "request" else "update"


def _archive(name: str) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for file, data in (
            ("Dockerfile", _DOCKERFILE.format(name=name).encode()),
            ("functions.py", (_HERE / "functions.py").read_bytes()),
        ):
            entry = tarfile.TarInfo(file)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


if __name__ == "__main__":
    sys.exit(main())
