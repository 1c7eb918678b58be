"""Runtimes behind one session contract. Import the one you need: `onnx_runtime`, `engine` or `reference`."""

from smallhold.device.backends.contract import Backend, Inputs, Session

__all__ = ["Backend", "Inputs", "Session"]
