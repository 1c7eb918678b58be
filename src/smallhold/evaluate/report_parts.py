"""The pieces that a report's page is made of, as HTML; every text that comes from a result is escaped here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TypeVar

from smallhold.evaluate.result import IntervalJson, Result, horizon_name, population
from smallhold.evaluate.svg import Picture
from smallhold.evaluate.tables import ABSENT, format_difference, format_share

_Item = TypeVar("_Item")
_Key = TypeVar("_Key")


def figure(picture: Picture, kind: str = "", more: str = "") -> str:
    """A picture with its title and, folded, its words."""
    note = f'<span class="more">{escape(more)}</span>' if more else ""
    svg = picture.svg
    if kind == "broad":
        svg = f'<div class="scroll" role="region" aria-label="{escape(picture.title)}" tabindex="0">{svg}</div>'
    return (
        f"<figure{class_of(kind)}><figcaption>{escape(picture.title)}{note}</figcaption>{svg}"
        f"<details><summary>In words</summary><p>{escape(picture.description)}</p></details></figure>\n"
    )


def table(caption: str, content: str, kind: str = "") -> str:
    """A table in a scroller of its own; `content` is head and bodies, escaped already."""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">'
        f"<table{class_of(kind)}><caption><span>{escape(caption)}</span></caption>{content}</table></div>"
    )


def head(columns: Iterable[str]) -> str:
    """The head of a table."""
    return "<thead><tr>" + "".join(f'<th scope="col">{escape(column)}</th>' for column in columns) + "</tr></thead>"


def grouped(title: str, lines: Sequence[str], num_columns: int) -> str:
    """A body of a table with a line of its own for its title, unless that is empty."""
    shown = f"<span>{unbroken(escape(title))}</span>"
    first = f'<tr><th scope="rowgroup" colspan="{num_columns}">{shown}</th></tr>' if title else ""
    return f"<tbody>{first}{''.join(lines)}</tbody>"


def line(name: str, cells: Sequence[str], kind: str = "") -> str:
    """A row: its name, and cells made by `cell` or `words`."""
    return f'<tr{class_of(kind)}><th scope="row">{unbroken(escape(name))}</th>{"".join(cells)}</tr>'


def words(text: str, kind: str = "") -> str:
    """A cell of plain text."""
    return f"<td{class_of(kind)}>{escape(text)}</td>"


def cell(interval: IntervalJson | None, *, is_difference: bool = False) -> str:
    """A cell with a figure and, below it, its interval."""
    if interval is None or interval["value"] is None:
        return f"<td>{ABSENT}</td>"
    form = format_difference if is_difference else format_share
    value = f'<span class="value">{form(interval["value"])}</span>'
    if interval["low"] is None or interval["high"] is None or interval["low"] == interval["high"]:
        return f"<td>{value}</td>"
    joint = " to " if is_difference else "–"
    return f'<td>{value} <span class="range">{form(interval["low"])}{joint}{form(interval["high"])}</span></td>'


def fold(summary: str, content: str) -> str:
    """What is there when wanted."""
    return f'<details class="fold"><summary>{escape(summary)}</summary>{content}</details>'


def fact_list(facts: Iterable[tuple[str, str]]) -> str:
    """Short labels, each with its value; a long value takes the whole line."""
    items = (
        f"<div{class_of('wide' if len(value) > 30 else '')}><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in facts
    )
    return f"<dl>{''.join(items)}</dl>"


def titled(text: str, result: Result) -> str:
    """A title that says so when nobody stands behind the data."""
    return f"{text} (simulated {population(result)[1]})" if result["is_simulated"] else text


def unbroken(text: str) -> str:
    """Keep `48 h` on one line."""
    return re.sub(r"(\d) h\b", "\\1&nbsp;h", text)


def class_of(name: str) -> str:
    """A class attribute, or nothing."""
    return f' class="{name}"' if name else ""


def after(horizon_h: float | None) -> str:
    """The title of what is said after so many hours; empty without a clock."""
    return "" if horizon_h is None else f"After {horizon_name(horizon_h)}"


def members_by(items: Sequence[_Item], key: Callable[[_Item], _Key]) -> list[tuple[_Key, list[_Item]]]:
    """Neighbours and others with equal keys, in the order in which each key first appears."""
    keys = [key(item) for item in items]
    order = [found for i, found in enumerate(keys) if found not in keys[:i]]
    return [(each, [item for item, found in zip(items, keys, strict=True) if found == each]) for each in order]
