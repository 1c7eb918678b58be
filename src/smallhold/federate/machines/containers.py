"""The same programs as containers: `compose.yaml` (the Compose Specification) and the `Containerfile` of the image."""

from __future__ import annotations

import json
from typing import Any

from smallhold.federate.machines.machine import HOLDINGS, Machine
from smallhold.federate.machines.programs import Program, environment_of

#: The user in the image; the keys on the machine have to be this user's.
USER_ID = 10_001
_CONTAINERFILE = """# Written, not run here. Put the package's wheel beside this file, then:
# docker build -f Containerfile -t {image} .
FROM python:3.11-slim
# "train" brings torch, for tasks that adapt a base model; a task with a table alone needs "data".
ARG EXTRA=data
COPY smallhold-*.whl /wheel/
RUN python -m venv /opt/smallhold/venv \\
 && /opt/smallhold/venv/bin/pip install --no-cache-dir "$(echo /wheel/*.whl)[$EXTRA]" safetensors \\
 && python -m venv /opt/smallhold/venv-flower \\
 && /opt/smallhold/venv-flower/bin/pip install --no-cache-dir flwr==1.41.0 numpy safetensors cryptography \\
 && /opt/smallhold/venv-flower/bin/pip install --no-cache-dir --no-deps /wheel/*.whl
# A new volume takes owner and mode from here.
RUN install -d -o {user} -g {user} -m 700 {state} {state}/flower {state}/flower/home {sockets}
USER {user}:{user}
"""
_HEAD = "# Written, not run here: the services in systemd/ are what is tested. Image: see Containerfile.\n"


def containerfile_text(machine: Machine) -> str:
    """`Containerfile` of a machine's image."""
    return _CONTAINERFILE.format(image=_image(machine), user=USER_ID, state=machine.state, sockets=machine.sockets)


def compose_text(machine: Machine, programs: tuple[Program, ...]) -> str:
    """`compose.yaml` of a machine."""
    network = next((program.name for program in programs if program.is_networked), "")
    services = {program.name: _service(machine, program, network) for program in programs}
    content = {"name": _image(machine).replace(".", "-"), "services": services}
    return _HEAD + _yaml(content | {"volumes": {"state": {}, "sockets": {}}})


def _image(machine: Machine) -> str:
    return f"smallhold-{machine.job}-{machine.role}"


def _service(machine: Machine, program: Program, network: str) -> dict[str, Any]:
    """One service; those with a network share that of the first, whose loopback is then their own."""
    volumes = [f"./:{machine.config}:ro", f"state:{machine.state}", f"sockets:{machine.sockets}"]
    found: dict[str, Any] = {
        "image": _image(machine),
        # A dollar would be a variable of compose.
        "command": [word.replace("$", "$$") for word in program.command],
        "environment": environment_of(machine),
        "volumes": volumes if program.is_networked else [*volumes, f"{HOLDINGS}:{HOLDINGS}:ro"],
        "working_dir": str(HOLDINGS),
        "user": f"{USER_ID}:{USER_ID}",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "on-failure" if program.ends else "unless-stopped",
    }
    if program.after:
        found["depends_on"] = [program.after]
    if not program.is_networked:
        found["network_mode"] = "none"
    elif program.name != network:
        found["network_mode"] = f"service:{network}"
    elif not machine.site:
        found["ports"] = [f"{machine.port}:{machine.port}"]
    return found


def _yaml(value: Any, indent: str = "") -> str:
    """Block style; names of ours and JSON's scalars, which are YAML's as well (YAML 1.2, 1.3)."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines.append(f"{indent}{key}:\n{_yaml(item, indent + '  ')}")
        elif isinstance(item, list):
            lines.append(f"{indent}{key}:\n" + "".join(f"{indent}  - {json.dumps(part)}\n" for part in item))
        else:
            lines.append(f"{indent}{key}: {json.dumps(item)}\n")
    return "".join(lines)
