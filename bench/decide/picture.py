"""The picture of a run: processor time of one decision, everybody, both workloads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from bench.decide.result import QUIET, fastest

from smallhold.device.durable_file import write_durably

#: Role to the name in the picture, ours first; of several variants of a role the fastest is drawn.
ROWS = {
    "engine": "Smallhold engine",
    "ONNX Runtime": "Smallhold on ONNX Runtime",
    "our logic on llama.cpp": "our logic on llama.cpp's library",
    "llama-server best": "llama-server, one token",
    "llama-server stock": "llama-server, JSON",
    "genai": "onnxruntime-genai",
    "transformers": "transformers, float32",
}
TITLES = {"stream": "one more card of a stay", "window": "120 new words behind 180 kept"}


def draw(details: dict[str, Any], path: Path) -> None:
    """Write an SVG: ms a decision from 0, medians with the 10th and 90th percentile of turns."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "decide", "svg.fonttype": "path", "font.size": 9}):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
        for panel, (kind, title) in zip(panels, TITLES.items(), strict=True):
            rows = details["turns"].get(f"{kind}, {QUIET}", {})
            for place, (role, _) in enumerate(ROWS.items()):
                name = fastest(rows, role)
                if name is None:
                    panel.text(0.02, place, "missing", transform=panel.get_yaxis_transform(), va="center")
                    continue
                row = rows[name]
                low, high = (1e3 / row[f"events_per_second_per_core_{end}"] for end in ("high", "low"))
                color = "#1f6f8b" if place == 0 else "#9db4c0"
                panel.barh(
                    place,
                    row["cpu_ms"],
                    color=color,
                    xerr=[[max(0, row["cpu_ms"] - low)], [max(0, high - row["cpu_ms"])]],
                )
                panel.annotate(
                    f"{row['cpu_ms']:.3g}", (high, place), xytext=(4, 0), textcoords="offset points", va="center"
                )
            panel.set(title=title, xlabel="ms of one core for a decision")
            panel.margins(x=0.15)
            panel.set_xlim(left=0)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(range(len(ROWS)), list(ROWS.values()))
        panels[0].invert_yaxis()
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [buffer.getvalue()], mode=0o644)
