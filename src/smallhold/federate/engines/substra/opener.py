"""How Substra opens a site's data sample: a card that says which resident site holds the rows. The rows stay there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import substratools


class SiteCard(substratools.Opener):  # type: ignore[misc]
    """Reads `site.json` of the one data sample."""

    def get_data(self, folders: list[str]) -> dict[str, Any]:
        """The card: `site`, `job`, `deadline_seconds`."""
        (folder,) = folders
        card: dict[str, Any] = json.loads((Path(folder) / "site.json").read_text())
        return card

    def fake_data(self, n_samples: int | None = None) -> dict[str, Any]:
        """Substra asks for invented data where it may not read real ones; nothing is learnt from those here."""
        raise NotImplementedError(f"a site's card cannot be invented (asked for {n_samples} samples)")
