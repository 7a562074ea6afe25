"""The general score of each remedy at the same domain score."""

from collections.abc import Iterator

import numpy as np

from lit_talr.report.runs import Row
from lit_talr.report.worlds import World, resampled_means

SHARES = (0.5, 0.75, 0.9)
"""The levels: shares of the way from the base model's domain score to the best one of Standard."""
MATCHED = ["variant", "line", "remedy", "source", "share", "level", "best", "reached"]
MATCHED += [*(f"{name}{end}" for name in ("general", "more") for end in ("", "_lower", "_upper")), "resamples"]


def general_at(domain: np.ndarray, general: np.ndarray, level: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """The general score where a line through points first reaches a domain score, straight between two points; and whether it does.

    A line that begins at the level or above has the general score of its first point. One that does not reach it has that of its point with the largest
    domain score.

    Args:
        domain: ``[number of lines, number of points]`` domain scores, from the base model on.
        general: General scores, as ``domain``.
        level: A level for all lines, or ``[number of lines]``.
    """
    above = domain >= np.reshape(level, (-1, 1))
    reached = np.asarray(above.any(axis=1))
    lines = np.arange(len(domain))
    after = np.where(reached, above.argmax(axis=1), domain.argmax(axis=1))
    before = np.where(reached, np.maximum(after - 1, 0), after)
    step = domain[lines, after] - domain[lines, before]
    part = np.divide(level - domain[lines, before], step, out=np.ones(len(lines)), where=step > 0)
    return general[lines, before] + part * (general[lines, after] - general[lines, before]), reached


def matched_rows(world: World) -> Iterator[Row]:
    """A row for each remedy and level: its general score there, and how much more that is than Standard's, with 95 % intervals by bootstrap over items.

    The levels are the ``SHARES`` of the way from the base model's domain score to the best mean over seeds of Standard (of any remedy, where Standard was not
    run). They are taken as given: an interval is that of the general score at this very level. A remedy whose line never reaches a level has no general score
    there. ``best`` is its largest domain score, ``resamples`` the share of resamples in which the line reaches the level; in the others, the interval takes
    its point with the largest domain score.
    """
    lines, scores = world.trajectories(), {name: world.scores(name)[None] for name in ("domain", "general")}
    drawn = {name: resampled_means([point.answers[name] for point in world.points], name) for name in scores}
    resamples = {name: means[1:] for name, means in drawn.items() if means is not None}
    if len(resamples) == len(scores):
        scores = {name: np.concatenate([measured, resamples[name]]) for name, measured in scores.items()}  # the first line is the measured one
    domain, general = scores["domain"], scores["general"]
    goal = lines.get("standard", [index for index, point in enumerate(world.points) if point.row["trained"]])
    if not goal or (way := domain[0, goal].max() - domain[0, 0]) <= 0:
        return
    for share in SHARES:
        level = float(domain[0, 0] + share * way)
        found = {name: general_at(domain[:, line], general[:, line], level) for name, line in lines.items()}
        for name, line in lines.items():
            values, reached = found[name]
            row: Row = {"variant": world.variant or None, "line": name, "share": share, "level": level}
            row |= {key: world.points[line[1]].row[key] for key in ("remedy", "source")}
            row |= {"best": float(domain[0, line].max()), "reached": bool(reached[0]), "resamples": float(reached[1:].mean()) if len(reached) > 1 else None}
            if row["reached"]:
                row |= interval("general", values)
                if "standard" in found:  # itself it differs from by 0, without an interval
                    row |= interval("more", (values - found["standard"][0])[: 1 if name == "standard" else None])
            yield row


def interval(name: str, values: np.ndarray) -> Row:
    """A measured number, and its interval where resampled ones come after it."""
    ends = percentiles(values[1:]) if len(values) > 1 else (None, None)
    return {name: float(values[0]), f"{name}_lower": ends[0], f"{name}_upper": ends[1]}


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95 %."""
    lower, upper = np.percentile(values, [2.5, 97.5])
    return float(lower), float(upper)
