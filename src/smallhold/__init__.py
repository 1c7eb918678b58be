"""Smallhold: small language models, held locally.

>>> import smallhold
>>> from smallhold.sectors.hospital.icu_risk import static_features_from
>>> bundle = smallhold.open("icu-risk.bundle")              # doctest: +SKIP
>>> static = static_features_from(71, "F", 160, "medical")  # doctest: +SKIP
>>> session = bundle.task("icu-risk").session(static)       # doctest: +SKIP
>>> session.observe("HR", 118)                              # doctest: +SKIP
>>> session.close_bin()                                     # doctest: +SKIP
>>> session.decide()                                        # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smallhold.errors import SmallholdError
from smallhold.version import __version__

if TYPE_CHECKING:
    from smallhold.decide import open_bundle as open

__all__ = ["SmallholdError", "__version__", "open"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line's light verbs must not pay for a runtime they do not need.
    if name == "open":
        from smallhold.decide import open_bundle

        return open_bundle
    raise AttributeError(f"module 'smallhold' has no attribute {name!r}")
