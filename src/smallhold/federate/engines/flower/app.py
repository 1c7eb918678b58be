"""What Flower reads of an app before it runs: the package, and where its SuperLink is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from smallhold.device.durable_file import write_durably

_PROJECT = """[project]
name = "smallhold-job"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0,<1.42"]

[tool.flwr.app]
publisher = "smallhold"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "smallhold_job.server_app:app"
clientapp = "smallhold_job.client_app:app"

[tool.flwr.app.config]
{settings}
"""
_MODULE = "from {package}.{side} import app as _app\n\napp = _app\n"
CONNECTION = "smallhold"


def write_app(folder: Path, package: str, settings: Mapping[str, str | int | float]) -> None:
    """Write an app that finds its two sides installed.

    Args:
        folder: Made where it is not there.
        package: With the modules `server_app` and `client_app`.
        settings: Of the run, with what they are when a run does not say.
    """
    inner = folder / "smallhold_job"
    inner.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    files = {
        folder / "pyproject.toml": _PROJECT.format(settings=lines),
        folder / "LICENSE": "Apache-2.0\n",
        inner / "__init__.py": "",
        **{inner / f"{side}.py": _MODULE.format(package=package, side=side) for side in ("server_app", "client_app")},
    }
    for path, text in files.items():
        write_durably(path, [text.encode()], mode=0o644)


def write_connection(home: Path, port: int, authority: Path) -> None:
    """Tell `flwr`, whose home this is, of the SuperLink on a port of loopback; its name there is `CONNECTION`."""
    home.mkdir(parents=True, exist_ok=True)
    text = (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\nroot-certificates = "{authority}"\n'
    )
    write_durably(home / "config.toml", [text.encode()])
