"""Devices that decide without a network and synchronise when there is one."""

from smallhold.assist.sync.clock import HybridClock, Stamp
from smallhold.assist.sync.conflict import Conflict, find_conflicts
from smallhold.assist.sync.message import ACT, RECORD, Act, Batch, Message
from smallhold.assist.sync.node import SyncNode, Taken

__all__ = [
    "ACT",
    "RECORD",
    "Act",
    "Batch",
    "Conflict",
    "HybridClock",
    "Message",
    "Stamp",
    "SyncNode",
    "Taken",
    "find_conflicts",
]
