"""Substra's tasks in the process that plans them, in place of a process for each: faster, and isolates nothing.

The plan, its permissions and its checksums are the same, and the code is taken from the archive that was registered.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
from pathlib import Path
from string import Template
from typing import Any

import substratools
from substra.sdk.archive import uncompress
from substra.sdk.backends.local.compute.spawner.base import VOLUME_INPUTS, BaseSpawner, ExecutionError
from substra.sdk.backends.local.compute.spawner.subprocess import (
    _get_command_args,
    _get_entrypoint_from_dockerfile,
    _symlink_data_samples,
)

_SCRIPT = "smallhold_substra_functions"


class InThisProcess(BaseSpawner):  # type: ignore[misc]
    """A spawner that calls the function and waits for nobody."""

    def spawn(
        self,
        name: str,  # noqa: ARG002 - Substra's signature
        archive_path: str,
        command_args_tpl: list[Template],
        data_sample_paths: dict[str, Path] | None,
        local_volumes: dict[str, Any],
        envs: dict[str, str] | None,  # noqa: ARG002
    ) -> None:
        """Carry one task out.

        Raises:
            ExecutionError: the function failed.
        """
        with tempfile.TemporaryDirectory(dir=self._local_worker_dir) as held, contextlib.chdir(held):
            folder = Path(held)
            uncompress(archive_path, folder)
            script, function = _get_entrypoint_from_dockerfile(folder)
            if data_sample_paths:
                _symlink_data_samples(data_sample_paths, local_volumes[VOLUME_INPUTS])
            try:
                _load(folder / script)
                substratools.execute(_get_command_args(function, command_args_tpl, local_volumes))
            except Exception as error:  # whatever it is: a process of its own would have ended with a code, no more
                raise ExecutionError(f"{function}: {type(error).__name__}: {error}") from error
            finally:
                logging.getLogger("substratools").handlers.clear()  # each call adds one


def _load(script: Path) -> None:
    """Register a script's functions, in place of those that were registered before."""
    substratools.register.get_registered_functions().clear()
    spec = importlib.util.spec_from_file_location(_SCRIPT, script)
    if spec is None or spec.loader is None:
        raise ExecutionError(f"{script.name}: not a Python file")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
