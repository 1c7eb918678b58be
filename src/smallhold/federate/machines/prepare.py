"""Folders for the machines of a federation, made by its operator.

DIR/operator/     the authority: its private key, to be kept offline, its certificate, and the job as it was prepared
DIR/server/       for the machine of the server
DIR/site-NAME/    for the machine of a site; its private keys are made there, and are never in DIR
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from smallhold.device.durable_file import write_durably
from smallhold.errors import InputError, RecipeError
from smallhold.federate.engines.flower.credentials import (
    Authority,
    certify_server,
    generate_key,
    new_authority,
    write_certificate,
    write_key,
)
from smallhold.federate.job import FederatedJob, read_job
from smallhold.federate.machines.admission import OPERATOR, share_keys
from smallhold.federate.machines.containers import compose_text, containerfile_text
from smallhold.federate.machines.machine import (
    AUTHORITY,
    JOB,
    KEYS,
    NODES,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Machine,
    read_machine,
    write_machine,
)
from smallhold.federate.machines.programs import programs_of
from smallhold.federate.machines.readme import readme_text
from smallhold.federate.machines.units import unit_name, unit_text
from smallhold.federate.members import FOLDER as MEMBERS
from smallhold.federate.members import KEY, make_key

_AUTHORITY_KEY = "ca.key"


def prepare(job: FederatedJob, text: str, out: Path, *, host: str, port: int) -> list[str]:
    """Make the folders that are not there yet; one that is there stays as it is.

    Args:
        job: What is to be carried out.
        text: Of its file.
        out: Folder of the folders.
        host: Name or IPv4 address by which the sites reach the server.
        port: Of the server; Flower's own programs take those above it, on loopback.

    Returns:
        Names of the folders that were made.

    Raises:
        RecipeError: names or ports that cannot be, or another job, host or port was prepared here.
        InputError: a folder wants a certificate, and the authority's key is not here.
    """
    operator = out / OPERATOR
    server = Machine(job=job.name, digest=job.digest, host=host, port=port, local_port=port + 1)
    sites = [
        Machine(job=job.name, digest=job.digest, host=host, port=port, local_port=port + 2 + number, site=site)
        for number, site in enumerate(sorted(job.sites))
    ]
    if operator.exists():
        _check_same(operator, server, job)
    else:
        _make_operator(server, text, operator)
    made = []
    for machine in (server, *sites):
        if not (out / machine.folder_name).exists():
            _make_machine(machine, job, out)
            made.append(machine.folder_name)
    secret = out / server.folder_name / KEYS / KEY
    if secret.exists():  # not where the server's folder was taken away already
        make_key(secret, operator / MEMBERS / "server.pem")
    share_keys(out, job)
    return made


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A new folder, for its owner alone, that is whole or absent: made beside its place, then moved there."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():  # of a process that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o700)
    yield partial
    partial.rename(folder)


def _make_operator(server: Machine, text: str, operator: Path) -> None:
    with _whole(operator) as folder:
        authority = new_authority(server.digest)
        write_key(folder / _AUTHORITY_KEY, authority.key)
        write_certificate(folder / AUTHORITY, authority.certificate)
        write_durably(folder / JOB, [text.encode()], mode=0o644)
        write_machine(server, folder)


def _make_machine(machine: Machine, job: FederatedJob, out: Path) -> None:
    with _whole(out / machine.folder_name) as folder:
        _fill(folder, machine, job, out / OPERATOR)


def _fill(folder: Path, machine: Machine, job: FederatedJob, operator: Path) -> None:
    for part in (KEYS, "systemd"):
        (folder / part).mkdir(mode=0o700)
    for name in (JOB, AUTHORITY):
        write_durably(folder / name, [(operator / name).read_bytes()], mode=0o644)
    write_machine(machine, folder)
    programs = programs_of(machine, job)
    texts = {
        "README.md": readme_text(machine, tuple(program.name for program in programs), is_secure=job.upload.is_hidden),
        "Containerfile": containerfile_text(machine),
        "compose.yaml": compose_text(machine, programs),
    }
    texts |= {f"systemd/{unit_name(machine, program.name)}": unit_text(machine, program) for program in programs}
    for name, text in texts.items():
        write_durably(folder / name, [text.encode()], mode=0o644)
    if not machine.site:
        (folder / NODES).mkdir(mode=0o700)
        key = generate_key()
        write_key(folder / SERVER_KEY, key)
        certificate = certify_server(_load_authority(operator), key.public_key(), machine.host)
        write_certificate(folder / SERVER_CERTIFICATE, certificate)
        if job.upload.is_hidden:
            make_key(folder / KEYS / KEY)


def _check_same(operator: Path, server: Machine, job: FederatedJob) -> None:
    """Refuse another job under keys that were made for this one."""
    before = asdict(read_machine(operator)) | _flat(asdict(read_job(operator / JOB)))
    now = asdict(server) | _flat(asdict(job))
    names = {"host": "--server-host", "port": "--port"}
    changed = [key for key in now if now[key] != before.get(key) and key not in ("digest", "local_port")]
    if changed:
        said = "; ".join(
            f"{names.get(key, key)}: prepared with {before.get(key)!r}, got {now[key]!r}" for key in changed
        )
        raise RecipeError(
            f"job {job.name}: {operator.parent} was prepared for another: {said}",
            hint="another --out DIR: machines that were prepared keep the job that they were given",
        )


def _flat(values: dict[str, Any], table: str = "") -> dict[str, Any]:
    """Keys of a job as in its file: `local.epochs`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{key}.") if isinstance(value, dict) else {f"{table}{key}": value}
    return found


def _load_authority(operator: Path) -> Authority:
    path = operator / _AUTHORITY_KEY
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((operator / AUTHORITY).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: expected the authority's private key, got none that can be read",
            hint="put it back there for as long as the server's folder is made",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InputError(f"{path}: expected the private key of {AUTHORITY} beside it, got another")
    return Authority(key, certificate)
