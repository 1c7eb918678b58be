"""A whole federation on NVFlare, on this machine: its server and clients, resident server and sites, all as processes.

NVFlare provisions the deployment: mutual TLS with an authority of its own, and no code but the two parts of ours may be
named by a job. Its programs come from an environment of their own; nothing of NVFlare is imported here. A process that
ends is started again; the operator's process submits another job where NVFlare gave one up.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError, MissingExtraError
from smallhold.federate.engines.deployment import Deployment
from smallhold.federate.engines.processes import JobProcesses, free_port
from smallhold.federate.job import FederatedJob

_PARTS = "smallhold.federate.engines.nvflare"
_CONTROLLER, _EXECUTOR = f"{_PARTS}.server_app.RoundController", f"{_PARTS}.client_app.SiteExecutor"
_PROJECT, _SERVER, _ADMINISTRATOR = "smallhold", "localhost", "admin@smallhold.invalid"
#: What NVFlare takes as a client's name, less what it or this deployment names otherwise.
_NAME = re.compile(r"(?!(server|localhost)$)[a-z0-9_-]+")

_FORBIDDEN = ("byoc", "shell_commands", "operate", "clone_job", "download_job", "server-predeployed-flwr")
#: The administrator submits, watches and aborts jobs, and brings no code with them (`byoc`); nobody else does anything.
_AUTHORIZATION = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": {"submit_job": "any", "manage_job": "any", "view": "any"} | dict.fromkeys(_FORBIDDEN, "none")
    },
}


class NVFlareDeployment(Deployment):
    """NVFlare's server, clients and operator, or its simulator, beside the resident server and sites."""

    def __init__(
        self,
        job: FederatedJob,
        job_name: str,
        folder: Path,
        data_dir: Path | None,
        programs: Path,
        *,
        simulate: bool = False,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            job: What is carried out.
            job_name: How the command line finds it: a path or a shipped name.
            folder: Of the run: state of server and sites, and NVFlare's in `nvflare/`, with its keys and logs.
            data_dir: Where data sets lie, or None.
            programs: Folder of NVFlare's programs, `nvflare` and its `python` among them.
            simulate: NVFlare's simulator carries the messages: one program, no TLS; resident server and sites are the
                same.

        Raises:
            MissingExtraError: NVFlare is not there.
            FederationError: a site has a name that NVFlare does not take.
        """
        if not (programs / "nvflare").exists():
            missing = MissingExtraError("nvflare", "nvflare", f"the NVFlare engine ({programs}/nvflare is missing)")
            missing.hint = "make nvflare, or --programs DIR: NVFlare's pins want an environment of their own"
            raise missing
        if wrong := [site for site in job.sites if not _NAME.fullmatch(site)]:
            raise FederationError(
                f"job {job.name}: NVFlare takes no site of the name {', '.join(wrong)}; expected letters, digits, "
                "hyphens, underscores, and neither server nor localhost",
                hint="rename the site in the job and in the data, or choose another engine",
            )
        self._simulate, self._seen = simulate, 0
        super().__init__(
            JobProcesses(job, job_name, folder, data_dir, engine="nvflare", programs=programs, environment={})
        )

    def _start(self) -> None:
        job = self._make_job()
        sites = sorted(self._running.job.sites)
        if self._simulate:
            workspace = self._folder / "simulator"
            _write_json(workspace / "local" / "resources.json", {"components": [], **_only(_CONTROLLER, _EXECUTOR)})
            command = ["simulator", str(job), "-w", str(workspace), "-c", ",".join(sites), "-t", str(len(sites))]
            self._start_program("nvflare-simulator", [str(self._running.programs / "nvflare"), *command])
            return
        kits = self._provision()
        for name in (_SERVER, *sites):
            role = "server" if name == _SERVER else f"client-{name}"
            self._start_program(f"nvflare-{role}", [str(kits / name / "startup" / "sub_start.sh"), "--once"])
        operator = [str(self._running.programs / "python"), "-m", f"{_PARTS}.operator"]
        about = ["--kit", str(kits / _ADMINISTRATOR), "--job", str(job), "--sites", *sites]
        self._start_program("operator", [*operator, *about])

    def _start_program(self, name: str, command: list[str]) -> None:
        self._running.start(name, command, SMALLHOLD_SOCKETS=str(self._running.sockets))

    def _tend(self, _: float) -> None:
        """When one of NVFlare's own processes was started again, its job is lost: the operator begins another."""
        starts = sum(p.starts for name, p in self.processes.items() if name.startswith("nvflare-"))
        if self._seen and starts > self._seen and not self._simulate:
            self._running.restart(self.processes["operator"])
        self._seen = starts

    def _make_job(self) -> Path:
        """The folder of the NVFlare job: which classes do what, and nothing else."""
        folder = self._folder / "job"
        config = folder / "app" / "config"
        job = self._running.job
        meta = {
            "name": "smallhold",
            "resource_spec": {},
            "deploy_map": {"app": ["@ALL"]},
            "min_clients": job.least,
        }
        server = {"format_version": 2, "workflows": [{"id": "rounds", "path": _CONTROLLER, "args": {}}]}
        executor = {"tasks": ["train"], "executor": {"path": _EXECUTOR, "args": {}}}
        _write_json(folder / "meta.json", meta)
        _write_json(config / "config_fed_server.json", server)
        _write_json(config / "config_fed_client.json", {"format_version": 2, "executors": [executor]})
        return folder

    def _provision(self) -> Path:
        """Have NVFlare make the startup kits, anew for every deployment; returns their folder.

        What NVFlare keeps of earlier deployments goes: the rounds are not in it. So does the authority's key: nobody
        can make another kit.
        """
        for old in ("kits", "store"):
            shutil.rmtree(self._folder / old, ignore_errors=True)
        port, sites = free_port(), sorted(self._running.job.sites)
        own = {"org": _PROJECT}
        server = {"name": _SERVER, "type": "server", "fed_learn_port": port, "admin_port": port, **own}
        administrator = {"name": _ADMINISTRATOR, "type": "admin", "role": "project_admin", **own}
        project = {
            "api_version": 3,
            "name": _PROJECT,
            "participants": [server, administrator, *({"name": site, "type": "client", **own} for site in sites)],
            "builders": [
                {"path": f"nvflare.lighter.impl.{builder}", "args": settings}
                for builder, settings in (
                    ("workspace.WorkspaceBuilder", {}),
                    ("static_file.StaticFileBuilder", {"config_folder": "config", "scheme": "grpc"}),
                    ("cert.CertBuilder", {}),
                    ("signature.SignatureBuilder", {}),
                )
            ],
        }
        path = self._folder / "project.yml"  # JSON is YAML
        _write_json(path, project)
        done = self._running.call("nvflare", "provision", "-p", str(path), "-w", str(self._folder / "kits"))
        kits = self._folder / "kits" / _PROJECT / "prod_00"
        if done.returncode != 0 or not kits.is_dir():
            raise FederationError(f"nvflare provision: {(done.stdout + done.stderr)[-1000:]}")
        shutil.rmtree(kits.parent / "state")
        (self._folder / "kits").chmod(0o700)
        for name in (_SERVER, *sites):
            local = kits / name / "local"
            resources = self._server_resources() if name == _SERVER else _client_resources()
            _write_json(local / "resources.json", resources)
            _write_json(local / "authorization.json", _AUTHORIZATION)
        return kits

    def _server_resources(self) -> dict[str, Any]:
        store = self._folder / "store"
        jobs = {"uri_root": str(store / "jobs"), "job_store_id": "job_store"}
        storage = {"path": "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"}
        snapshots = {**storage, "args": {"root_dir": str(store / "snapshots"), "uri_root": "/"}}
        persistor = "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor"
        launcher = "app_common.job_launcher.server_process_launcher.ServerProcessJobLauncher"
        scheduler = {"max_jobs": 1, "min_schedule_interval": 2.0, "max_schedule_interval": 10.0}
        return {
            **_only(_CONTROLLER),
            "servers": [{"admin_storage": "transfer", "max_num_clients": 100, "heart_beat_timeout": 60}],
            "snapshot_persistor": {"path": persistor, "args": {"uri_root": "/", "storage": snapshots}},
            "components": [
                _component("job_scheduler", "app_common.job_schedulers.job_scheduler.DefaultJobScheduler", scheduler),
                _component("job_manager", "apis.impl.job_def_manager.SimpleJobDefManager", jobs),
                {"id": "job_store", **storage},
                _component("process_launcher", launcher),
            ],
        }


def _client_resources() -> dict[str, Any]:
    gpus = {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0}
    manager = "app_common.resource_managers.gpu_resource_manager.GPUResourceManager"
    consumer = "app_common.resource_consumers.gpu_resource_consumer.GPUResourceConsumer"
    launcher = "app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher"
    return {
        **_only(_EXECUTOR),
        "allow_log_streaming": False,  # what goes wrong at a site stays there
        "client": {"retry_timeout": 30},
        "components": [
            _component("resource_manager", manager, gpus),
            _component("resource_consumer", consumer),
            _component("process_launcher", launcher),
        ],
    }


def _only(*classes: str) -> dict[str, Any]:
    """What a job may name."""
    return {"format_version": 2, "class_list_enforcement_mode": "enforce", "class_allow_list": list(classes)}


def _component(name: str, path: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"id": name, "path": f"nvflare.{path}", "args": arguments or {}}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [json.dumps(content, indent=1).encode()], mode=0o644)
