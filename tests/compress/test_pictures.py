"""Pictures say what was measured; a front has no point that another beats."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.compress.pictures import Step, draw_pareto, draw_waterfall, pareto_front
from smallhold.errors import DataError, InputError

POINT = st.tuples(st.integers(1, 50), st.integers(0, 50))
TRIALS = [
    {"label": "a", "effort": 0.3, "quality": 0.4, "cost": {"bytes": 2e6, "p95_ms": 0.9}},
    {"label": "a", "effort": 1.0, "quality": 0.9, "cost": {"bytes": 2e6, "p95_ms": 0.9}},
    {"label": "b", "effort": 0.3, "quality": 0.5, "cost": {"bytes": 1e6, "p95_ms": 0.4}},
]


@given(st.lists(POINT, min_size=1))
def test_the_front_holds_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert set(front) == set(points) - set(beaten)
    assert front == sorted(front)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_are_drawn_the_same_again(tmp_path: Path, kind: str) -> None:
    steps = [
        Step("teacher", 1.0, 22_000_000, 1.2),
        Step("pruned", 0.1, 4_000_000, 0.3),
        Step("healed", 0.97, 4_000_000, 0.3),
    ]
    contents = []
    for turn in ("first", "second"):
        draw_waterfall(steps, tmp_path / f"{turn}.{kind}")
        draw_pareto(TRIALS, tmp_path / f"{turn}-pareto.{kind}", found="a")
        contents.append([(tmp_path / f"{turn}{name}.{kind}").read_bytes() for name in ("", "-pareto")])
    assert contents[0] == contents[1] and min(map(len, contents[0])) > 1000


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="svg or"):
        draw_waterfall([Step("teacher", 1.0, 1, 1.0)], tmp_path / "x.gif")
    with pytest.raises(DataError, match="nothing was trained"):
        draw_pareto([], tmp_path / "x.png", found="")
    assert not list(tmp_path.iterdir())
