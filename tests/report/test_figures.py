import numpy as np
import pytest

from lit_talr.report.figures import colours, rates, tradeoff
from lit_talr.report.tables import Tables, collect
from tests.report.synthetic import write_run

RATES = (1e-4, 3e-4, 5e-4)


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
    (axis,) = tradeoff(tables.means, colours(tables.results)).axes
    for name, (low, high) in (("domain", axis.get_xlim()), ("general", axis.get_ylim())):
        ends = tables.means[[f"{name}_lower", f"{name}_upper"]].to_numpy()
        assert np.ptp(ends, axis=1).min() > 0.1 and low < ends.min() and high > ends.max()
