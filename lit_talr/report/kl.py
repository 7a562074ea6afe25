"""General ability against the divergence from the base model: is there one curve for all remedies?"""

from collections.abc import Iterator

import numpy as np

from lit_talr.report.matched import percentiles
from lit_talr.report.runs import Row
from lit_talr.report.worlds import World, resampled_means

KL = ["variant", "point", "remedy", "rate", "alpha", "kl", "drop", "fitted", "linear", "quadratic", "r_squared"]
ABOVE = ["variant", "remedy", "points", "kl_least", "kl_most", "above", "above_lower", "above_upper"]


def fit_curve(kl: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """``linear`` and ``quadratic`` of the least-squares curve ``drop = linear * KL + quadratic * KL^2``, which begins at the base model: no KL, no drop.

    Source: RL's Razor (Shenfeld, Pari and Agrawal 2025, arXiv 2509.04259) finds that forgetting is a function of the KL divergence from the base model,
    whatever the algorithm, and fits it by a quadratic: R^2 = .96 for a small network, .71 for a language model. Its divergence is KL(base || model) on inputs
    of the new task; ``drift/kl`` is the same on text that the base model writes. That the curve goes through the origin is ours.

    Args:
        kl: ``[number of points]`` in nats.
        drop: ``[..., number of points]``.
    """
    terms = np.stack([kl, kl**2], axis=1)
    curve: np.ndarray = drop @ np.linalg.pinv(terms).T
    return curve


def kl_rows(world: World) -> tuple[list[Row], list[Row]]:
    """A row for each point, with the curve's drop at its KL; and for each remedy how far its points lie above the curve in general score, on average.

    The interval of the latter is a bootstrap over items, which fits the curve anew each time; the divergences are taken as exact. A remedy's own points pull
    the curve, so the differences are too small rather than too large. Empty with fewer than four points, or fewer than two remedies.
    """
    points = [index for index, point in enumerate(world.points) if index and not np.isnan(point.kl)]
    names = [world.points[index].row["remedy"] for index in points]
    if len(points) < 4 or len(set(names)) < 2:
        return [], []
    kl, general = np.array([world.points[index].kl for index in points]), world.scores("general")
    drop = general[0] - general[points]
    curve = fit_curve(kl, drop)
    fitted = curve @ np.stack([kl, kl**2])
    spread = ((drop - drop.mean()) ** 2).sum()
    about = {"linear": float(curve[0]), "quadratic": float(curve[1]), "r_squared": float(1 - ((drop - fitted) ** 2).sum() / spread) if spread > 0 else None}
    shared = [{"variant": world.variant or None, **{key: world.points[index].row[key] for key in ("point", "remedy", "rate", "alpha")}} for index in points]
    by_point = [{**row, "kl": float(x), "drop": float(y), "fitted": float(z), **about} for row, x, y, z in zip(shared, kl, drop, fitted, strict=True)]
    drawn = resampled_means([world.points[0].answers["general"], *(world.points[index].answers["general"] for index in points)], "general")
    return by_point, [*above(world.variant, np.array(names), kl, drop, None if drawn is None else drawn[1:, :1] - drawn[1:, 1:])]


def above(variant: str, names: np.ndarray, kl: np.ndarray, drop: np.ndarray, drawn: np.ndarray | None) -> Iterator[Row]:
    def above_curve(drops: np.ndarray) -> np.ndarray:
        distance: np.ndarray = fit_curve(kl, drops) @ np.stack([kl, kl**2]) - drops
        return distance

    measured, resampled = above_curve(drop), None if drawn is None else above_curve(drawn)
    for name in dict.fromkeys(names.tolist()):
        own = names == name
        row: Row = {"variant": variant or None, "remedy": name, "points": int(own.sum()), "kl_least": float(kl[own].min()), "kl_most": float(kl[own].max())}
        row["above"] = float(measured[own].mean())
        if resampled is not None:
            row["above_lower"], row["above_upper"] = percentiles(resampled[:, own].mean(axis=1))
        yield row
