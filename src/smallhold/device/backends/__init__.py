"""Runtimes behind one session contract. Import the one you need: `reference` or `onnx_runtime`."""

from smallhold.device.backends.contract import Backend, Inputs, Session

__all__ = ["Backend", "Inputs", "Session"]
