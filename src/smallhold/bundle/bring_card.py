"""The card of a bundle that was made of somebody else's model."""

from __future__ import annotations

from smallhold.bundle.source import Source


def write_card(source: Source, *, name: str, bits: int, context: int, origin: str | None) -> str:
    """What the bundle is, in Markdown.

    Args:
        source: The model as it was found.
        name: Of the bundle.
        bits: That were asked for.
        context: Positions.
        origin: Where the source came from; default: its name.
    """
    encoding = {
        4: "4 bits in groups of 32",
        8: "8 bits in groups of 32",
        16: "float16, computed in float32",
        32: "float32",
    }[bits]
    if source.graph:
        encoding = "as in the graph"
    rows = {
        "source": f"{source.kind} `{origin or source.name}`",
        "SHA-256 of its weights": f"`{source.digest}`",
        "family": source.family,
        "parameters": f"{source.num_parameters:,}" if source.num_parameters else "not known",
        "weights": encoding,
        "context": f"{context:,} positions"
        + (f" of the model's {source.context_length:,}" if context < source.context_length else ""),
        "licence": ", ".join(f"`licences/{path}`" for path in source.licences)
        or "none lay beside the model: ask its authors",
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(
        [
            f"# {name}",
            "",
            "A model of other people, packed by `smallhold bundle build --from`. It has no task, and nothing of it was "
            "trained, calibrated or evaluated here. Not a medical device.",
            "",
            "| | |",
            "| --- | --- |",
            *lines,
            "",
        ]
    )
