"""What a guest may spend."""

from __future__ import annotations

from dataclasses import dataclass, fields

from smallhold.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds for one guest; reaching one is an error of the guest, never of the host.

    Attributes:
        seconds: Wall time of one call into the guest. A pass of the model that has begun is finished first.
        fuel: Instructions of the guest, roughly one a WebAssembly operator; 0 counts none, and runs somewhat faster.
        memory_bytes: Linear memory.
        output_bytes: Standard output and standard error, each.
        tensor_bytes: One tensor, in or out.
        handles: Graphs, and contexts.
        positions: Positions in the caches of all contexts together.
        module_bytes: The guest's own file.
        model_bytes: A model that the guest brings itself through `load`; 0 refuses `load`. Such a model is unsigned.
    """

    seconds: float = 10.0
    fuel: int = 10_000_000_000
    memory_bytes: int = 256 * 2**20
    output_bytes: int = 2**20
    tensor_bytes: int = 4 * 2**20
    handles: int = 64
    positions: int = 65_536
    module_bytes: int = 64 * 2**20
    model_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse bounds that nothing could stay within."""
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value < 2**53 or (value == 0 and item.name not in ("fuel", "model_bytes")):
                raise InputError(f"limits: {item.name}: expected a positive number, got {value}")
        if self.memory_bytes > 2**32:
            raise InputError(f"limits: memory_bytes: WebAssembly addresses {2**32} bytes, got {self.memory_bytes}")
