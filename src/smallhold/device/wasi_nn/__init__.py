"""WASI-NN: guests in WebAssembly ask models that the host holds, and reach nothing else.

Read in this order: `models` (what a guest may open by name), `calls` (the six functions of `wasi_ephemeral_nn`),
`memory` and `raw_functions` (how they meet the guest), `host` (run one, within limits). Needs the extra `wasm`. The
table of inputs and outputs is in docs/guides/wasi-nn.md.
"""

from smallhold.device.wasi_nn.host import Grant, Guest, Outcome, run_guest
from smallhold.device.wasi_nn.limits import Limits
from smallhold.device.wasi_nn.models import Model

__all__ = ["Grant", "Guest", "Limits", "Model", "Outcome", "run_guest"]
