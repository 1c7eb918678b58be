"""From a decision schema to a calibrated answer: signal door, decision plan, sessions.

The public names are loaded on first use, so that a module of this folder can be imported without its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smallhold.decide.local import Decision, LocalBundle, LocalTask, TaskSession, check_bundle, open_bundle
    from smallhold.decide.text_task import LocalTextTask, TextDecision

__all__ = [
    "Decision",
    "LocalBundle",
    "LocalTask",
    "LocalTextTask",
    "TaskSession",
    "TextDecision",
    "check_bundle",
    "open_bundle",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from smallhold.decide import local, text_task

        return getattr(local if hasattr(local, name) else text_task, name)
    raise AttributeError(f"module 'smallhold.decide' has no attribute {name!r}")
