"""Pictures of results: what they show, and two in one."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.integrate

from result_cases import ALL, MADE, ONE_PROBE, density, eigen, estimated_trace
from specop.results import HistoryResult
from specop.results.structure import Structure

pytestmark = pytest.mark.torch  # result_cases.py has pairs of torch

PLOTTED = [
    *ALL,
    estimated_trace([1.0, 3.0], "xtrace"),
    eigen(eigenvalues=np.array([-1.0, 2.0])),
    ONE_PROBE,
    density([([3.0], [1.0])]),
    density([], [0.0], 1),
]


@pytest.mark.parametrize("result", PLOTTED)
def test_plots_return_axes_and_change_nothing(result) -> None:
    before = json.dumps(result.summary())
    ax = result.plot()
    ax.figure.canvas.draw()
    assert result.plot(ax) is ax
    assert json.dumps(result.summary()) == before
    plt.close(ax.figure)


def test_the_drawn_density_has_mass_one_and_shows_every_node() -> None:
    # Half at zero, a bulk at 1e-3 and an outlier: five decades that one Gaussian could not show.
    bulk = np.linspace(5e-4, 2e-3, 20)
    made = density([([0.0, *bulk, 50.0], [0.5, *np.full(20, 0.0245), 0.01])])
    ax = made.plot()
    (line,) = (line for line in ax.lines if line.get_label() == "density")
    x, y = line.get_data()
    assert scipy.integrate.trapezoid(y, x) == pytest.approx(1.0, abs=0.01)
    low, high = ax.get_xlim()
    assert low < made.nodes[0] and made.nodes[-1] < high
    assert (np.interp(made.nodes, x, y) > ax.get_ylim()[0]).all()
    plt.close(ax.figure)


def legend_of(ax) -> list[str]:
    """Return the texts of the legend, which a density has on the axes of the share."""
    (legend,) = (legend for other in ax.figure.axes if (legend := other.get_legend()))
    return [text.get_text() for text in legend.get_texts()]


def test_two_densities_in_one_figure_show_all_of_both() -> None:
    sharp = density([([0.0, 1e-3, 5e-3, 50.0], [0.5, 0.3, 0.19, 0.01])])
    flat = density([([-1e-4, 0.0, 2e-5, 0.8], [0.1, 0.5, 0.39, 0.01])], known=[2.0])
    alone = sharp.plot()
    ax = sharp.plot(label="batches of 16")
    assert flat.plot(ax, label="batches of 256", color="#d9601a") is ax
    ax.figure.canvas.draw()
    assert legend_of(ax) == [
        "batches of 16",
        "batches of 256",
        "quadrature nodes",
        "known eigenvalues",
        "95 % limits of the share",
    ]
    lines = {line.get_label(): line for line in ax.lines}
    first, second = lines["batches of 16"], lines["batches of 256"]
    assert second.get_color() == "#d9601a" and first.get_color() != second.get_color()
    # The curve is a property of the density and not of its company.
    (same,) = (line for line in alone.lines if line.get_label() == "density")
    np.testing.assert_array_equal(first.get_xydata(), same.get_xydata())
    low, high = ax.get_xlim()
    assert low < -1e-4 and high > 50.0
    for made, line in ((sharp, first), (flat, second)):
        heights = np.interp(made.nodes, *line.get_data())
        assert (ax.get_ylim()[0] < heights).all() and (heights < ax.get_ylim()[1]).all()
    # Both shares on one axis, in the colours of their densities, and from end to end.
    (share,) = (other for other in ax.figure.axes if other is not ax)
    assert [line.get_color() for line in share.lines] == [first.get_color(), second.get_color()]
    for made, line in ((sharp, share.lines[0]), (flat, share.lines[1])):
        x, y = line.get_data()
        assert x[0] < low and x[-1] > high and y[-1] == pytest.approx(1.0)
        at = made.nodes[2]
        assert y[np.searchsorted(x, at, side="right") - 1] == pytest.approx(made.cdf(at))
    assert min(abs(tick) for tick in ax.get_xticks() if tick) < 1e-3
    plt.close("all")


def history(values, errors, **columns) -> HistoryResult:
    columns = {"lambda_max": values, **columns}
    table = np.array([*columns.values()], dtype=float).T
    given = np.zeros_like(table)
    given[:, 0] = errors
    counts = np.full(len(values), 4)
    return HistoryResult(
        **MADE,
        steps=10 * np.arange(len(values)),
        quantities=tuple(columns),
        values=table,
        errors=given,
        record_seconds=np.full(len(values), 0.1),
        record_matvecs=counts,
        elapsed=10.0,
        every=10,
        budget=0.1,
        structure=Structure({"a": (2,)}, lambda vector: vector),
        gaps={},
    )


def test_two_histories_in_one_figure_show_all_of_both() -> None:
    slow = history([1.0, 2.0, 4.0], [0.1, 0.1, 0.2], lr=[0.5, 0.5, 0.5])
    fast = history([50.0, 90.0, 70.0], [1.0, 2.0, 1.0], lr=[0.025, 0.025, 0.025])
    assert slow.plot().get_yscale() == "linear"
    ax = slow.plot(label="rate 0.5")
    assert fast.plot(ax, label="rate 0.025") is ax
    ax.figure.canvas.draw()
    assert sorted(legend_of(ax)) == ["2 / lr", "rate 0.025", "rate 0.5"] and ax.get_ylabel() == "lambda_max"
    # 1 to 90 on a linear axis would hide the first run.
    assert ax.get_yscale() == "log"
    handles, labels = ax.get_legend_handles_labels()
    for label, made in (("rate 0.5", slow), ("rate 0.025", fast)):
        line, _, (bars,) = handles[labels.index(label)]
        np.testing.assert_array_equal(line.get_ydata(), made["lambda_max"])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(np.diff(ends).ravel() / 2, made["lambda_max_error"])
    drawn = [(line.get_color(), line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == "--"]
    colors = [handles[labels.index(label)][0].get_color() for label in ("rate 0.5", "rate 0.025")]
    assert drawn == [(colors[0], 4.0), (colors[1], 80.0)] and colors[0] != colors[1]
    low, high = ax.get_ylim()
    assert low < 1.0 and high > 90.0
    # Another quantity of the same run is named on the axis.
    assert slow.plot(fast.plot(), quantity="lr", label="rate").get_ylabel() == "lambda_max, lr"
    plt.close("all")


def test_spectra_of_two_points_share_a_scale() -> None:
    ax = eigen().plot(label="flat")
    eigen(eigenvalues=np.array([100.0, 300.0]), which="LM").plot(ax, label="sharp")
    assert legend_of(ax) == ["flat", "sharp"] and ax.get_yscale() == "log"
    eigen(eigenvalues=np.array([-1.0, 2.0])).plot(ax, label="saddle")
    assert ax.get_yscale() == "linear" and ax.get_ylim()[0] < -1.0 and ax.get_ylim()[1] > 300.0
    plt.close("all")
