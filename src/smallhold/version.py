"""The version of the installed package, for messages and for a bundle's minimum runtime."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("smallhold")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
