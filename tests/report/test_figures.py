from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lit_talr.report.figures import MOST_NAMED, colours, rates, tradeoff
from lit_talr.report.tables import Tables, collect
from tests.report.synthetic import write_run

RATES = (1e-4, 3e-4, 5e-4)


def drawn(tables: Tables) -> Figure:
    figure = tradeoff(tables.means, colours(tables.results))
    assert figure is not None
    return figure


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """A base that knows nothing of the domain, and runs that know all of it and forget the rest."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "base", [0] * 9, [1] * 9, remedy="base")
    for rate in RATES:
        write_run(folder / f"run-{rate:g}", [1] * 9, [0] * 9, fit={}, remedy="talr", rate=rate, seed=0)
    return collect([folder])


def test_the_axis_of_rates_names_each_rate(tables: Tables) -> None:
    figure = rates(tables.means, colours(tables.results))
    figure.draw_without_rendering()
    for axis in figure.axes:
        assert axis.get_xticks() == pytest.approx(RATES)
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["1e-4", "3e-4", "5e-4"]


def test_bars_at_the_ends_of_the_scale_are_whole(tables: Tables) -> None:
    (axis,) = drawn(tables).axes
    for name, (low, high) in (("domain", axis.get_xlim()), ("general", axis.get_ylim())):
        ends = tables.means[[f"{name}_lower", f"{name}_upper"]].to_numpy()
        assert np.ptp(ends, axis=1).min() > 0.1 and low < ends.min() and high > ends.max()


def write_worlds(folder: Path, talr_runs: int) -> Tables:
    """Two variants with other scores, each with a base and Standard; the first has runs of TALR too."""
    for variant, right in (("clean", 9), ("noisy", 5)):
        write_run(folder / f"{variant}-base", [0] * 9, [1] * 9, remedy="base", variant=variant)
        write_run(folder / f"{variant}-standard", [1] * right + [0] * (9 - right), [1, 0, 0] * 3, fit={}, remedy="standard", variant=variant, rate=2e-3, seed=0)
    for number in range(talr_runs):
        write_run(folder / f"talr-{number}", [1, 0, 0] * 3, [1, 0, 0] * 3, fit={}, remedy="talr", variant="clean", rate=1e-3 * (1 + number), seed=0)
    return collect([folder])


def test_few_points_are_named_on_equal_axes(tmp_path: Path) -> None:
    """A name covers no other name, and lies in the panel."""
    tables = write_worlds(tmp_path, talr_runs=1)
    figure = drawn(tables)
    clean, noisy = figure.axes
    assert clean.get_xlim() == noisy.get_xlim() and clean.get_ylim() == noisy.get_ylim()
    assert [text.get_text() for text in clean.texts] == ["base", "standard 2e-3", "talr 1e-3"]
    assert [text.get_text() for text in noisy.texts] == ["base", "standard 2e-3"]
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert all(not box.overlaps(other) for box in boxes for other in boxes if other is not box)
        assert all(axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max) for box in boxes)


def test_many_points_have_a_legend_in_place_of_names(tmp_path: Path) -> None:
    tables = write_worlds(tmp_path, talr_runs=MOST_NAMED - 1)
    figure = drawn(tables)
    assert not any(axis.texts for axis in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "standard", "talr", "Pareto front"]


def test_the_name_of_an_interpolation_has_its_alpha(tmp_path: Path) -> None:
    write_run(tmp_path / "base", [0] * 9, [1] * 9, remedy="base")
    write_run(tmp_path / "wise", [1] * 9, [0] * 9, remedy="wise-ft", source="standard", rate=1e-3, seed=0, alpha=0.5)
    tables = collect([tmp_path])
    (axis,) = drawn(tables).axes
    assert [text.get_text() for text in axis.texts] == ["base", "wise-ft 1e-3, α 0.5"]
