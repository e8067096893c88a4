"""Results: what they say, how they are kept, and the laws of a density."""

import copy
import json
import math
import pickle
import random
import stat
import sys
import zipfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st

from specop.errors import InvalidInputError
from specop.results import EigenResult, HistoryResult, Result, SpectralDensity, TraceResult
from specop.results.fields import column, record, vector
from specop.results.files import read_npz
from specop.results.result import load
from specop.results.structure import Structure
from specop.statistics.estimate import estimate_from_samples

MADE = {
    "matvecs": 12,
    "seconds": 0.5,
    "samples": 100,
    "seed": 3,
    "converged": True,
    "message": "done",
    "versions": {"numpy": "1"},
}


def eigen(**changed) -> EigenResult:
    values = {
        "eigenvalues": np.array([1.0, 2.0]),
        "rows": torch.eye(5)[:2],
        "residuals": np.array([1e-3, 2e-3]),
        "bounds": np.array([1e-6, 2e-6]),
        "check_matvecs": 4,
        "which": "LA",
        "tol": 1e-3,
        "structure": Structure({"a": (2, 2), "b": (1,)}, lambda vector: {"weight": vector}),
    }
    return EigenResult(**{**MADE, **values, **changed})


def estimated_trace(samples, method="hutchinson") -> TraceResult:
    value = estimate_from_samples(np.asarray(samples, dtype=float), 0.95)
    return TraceResult(
        **MADE,
        estimate=value.estimate,
        standard_error=value.standard_error,
        interval=value.interval,
        confidence=0.95,
        method=method,
        estimates=np.asarray(samples, dtype=float),
    )


def density(rules, known=(), n=100) -> SpectralDensity:
    """Build a density from one (nodes, weights) rule per probe, each of mass 1, and known eigenvalues."""
    share = 1 - len(known) / n
    nodes = np.concatenate([np.asarray(known, dtype=float), *(np.asarray(rule[0], dtype=float) for rule in rules)])
    weights = np.concatenate([np.full(len(known), 1 / n), *(np.asarray(w) * share / len(rules) for _, w in rules)])
    probe = np.concatenate([np.full(len(known), -1), *(np.full(len(rule[0]), i) for i, rule in enumerate(rules))])
    gauss = np.concatenate([np.full(len(known), 1 / n), *(np.asarray(w, dtype=float) for _, w in rules)])
    order = np.argsort(nodes, kind="stable")
    return SpectralDensity(
        **MADE,
        nodes=nodes[order],
        weights=weights[order],
        probe=probe[order].astype(np.int64),
        gauss_weights=gauss[order],
        couplings=np.zeros(len(nodes)),
        rounding=1e-14,
        error=0.0,
        n=n,
        steps=max([len(rule[0]) for rule in rules], default=1),
        confidence=0.95,
    )


TWO_PROBES = density([([0.0, 1.0], [0.75, 0.25]), ([0.0, 2.0], [0.5, 0.5])], known=[10.0])
ONE_PROBE = density([([0.0, 1.0, 3.0], [0.5, 0.25, 0.25])])
ALL = [eigen(), estimated_trace([1.0, 2.0, 4.0]), TWO_PROBES]


@pytest.mark.parametrize("result", [*ALL, estimated_trace([5.0])], ids=lambda result: type(result).__name__)
def test_saved_results_come_back_the_same(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "result.npz")
    again = load(tmp_path / "result.npz")
    assert type(again) is type(result)
    np.testing.assert_equal(again.summary(), result.summary())
    assert [path.name for path in tmp_path.iterdir()] == ["result.npz"]
    with np.load(tmp_path / "result.npz", allow_pickle=False) as file:
        assert not any(file[name].dtype.hasobject for name in file.files)


def test_eigenvectors_come_back_as_numpy_by_the_names_of_parameters(tmp_path: Path) -> None:
    eigen().save(tmp_path / "eigen.npz")
    again = load(tmp_path / "eigen.npz")
    assert isinstance(again.eigenvectors, np.ndarray)
    np.testing.assert_array_equal(again.eigenvectors, np.eye(5)[:, :2])
    assert eigen().eigenvector_tree(1)["weight"].tolist() == [0, 1, 0, 0, 0]
    tree = again.eigenvector_tree(1)
    assert {name: part.tolist() for name, part in tree.items()} == {"a": [[0, 1], [0, 0]], "b": [0]}
    nameless = eigen(structure=Structure({}, lambda vector: [vector]))
    assert nameless.eigenvector_tree(0)[0].tolist() == [1, 0, 0, 0, 0]
    nameless.save(tmp_path / "eigen.npz")
    with pytest.raises(InvalidInputError, match="loaded from a file"):
        load(tmp_path / "eigen.npz").eigenvector_tree(0)
    with pytest.raises(InvalidInputError, match="no parameter structure"):
        eigen(structure=None).eigenvector_tree(0)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "eigen.npz"
    eigen().save(path)

    def broken(file, array, **options):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", broken)
    with pytest.raises(OSError, match="disk full"):
        eigen(eigenvalues=np.array([7.0, 8.0])).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert load(path).eigenvalues.tolist() == [1.0, 2.0]


def test_saved_files_have_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    eigen().save(tmp_path / "eigen.npz")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_only_npz_names_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Use eigen\.npz"):
        eigen().save(tmp_path / "eigen.pt")


def write_archive(path: Path) -> None:
    np.savez(path, a=np.zeros(3))


def write_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_other_fields(path: Path) -> None:
    np.savez(path, specop=np.array(json.dumps({"class": "TraceResult", "colour": "red"})))


def write_other_header(path: Path) -> None:
    np.savez(path, specop=np.array("[1, 2]"))


def write_text(path: Path) -> None:
    path.write_text("not an archive")


def write_nothing(path: Path) -> None:
    path.touch()


def write_half(path: Path) -> None:
    eigen().save(path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "write",
    [write_archive, write_array, write_other_fields, write_other_header, write_text, write_nothing, write_half],
)
def test_foreign_files_are_refused(write, tmp_path: Path) -> None:
    path = tmp_path / "foreign.npz"
    write(path)
    with pytest.raises(InvalidInputError, match="holds no result"):
        load(path)


def damaged(whole: bytes, seed: int) -> bytes:
    """Return a file with a few bits flipped, bytes cut out or put in, or its end missing."""
    chance = random.Random(seed)
    broken = bytearray(whole)
    kind, at = seed % 4, chance.randrange(len(whole))
    if kind == 0:
        broken[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        for _ in range(5):
            broken[chance.randrange(len(whole))] = chance.randrange(256)
    elif kind == 2:
        del broken[at : at + chance.choice([1, 4, 100, len(whole)])]
    else:
        broken[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice([1, 4, 100])))
    return bytes(broken)


def test_damaged_files_are_refused_or_read_right(tmp_path: Path) -> None:
    path = tmp_path / "eigen.npz"
    eigen().save(path)
    whole, refused = path.read_bytes(), 0
    for seed in range(800):
        path.write_bytes(damaged(whole, seed))
        try:
            again = load(path)
        except InvalidInputError as error:
            assert "eigen.npz' holds no result" in str(error)
            refused += 1
        else:
            # Nothing looks at some bytes, such as dates.
            np.testing.assert_equal(again.summary(), eigen().summary())
            np.testing.assert_array_equal(again.rows, np.eye(5)[:2])
    assert refused > 600


def rezipped(path: Path, method: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


METHODS = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_compressed_files_are_read(method: int, tmp_path: Path) -> None:
    path = tmp_path / "eigen.npz"
    eigen().save(path)
    rezipped(path, method)
    np.testing.assert_equal(load(path).summary(), eigen().summary())
    # And refused where what is inside was damaged.
    content = bytearray(path.read_bytes())
    content[150:170] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="holds no result"):
        load(path)


# Deflate64, zstandard, AES encryption, a number that nobody uses; and one that hides what it is.
@pytest.mark.parametrize("number", [6, 9, 93, 99, 1234, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused(number: int, tmp_path: Path) -> None:
    path = tmp_path / "eigen.npz"
    eigen().save(path)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset : at + offset + 2] = number.to_bytes(2, "little")
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="holds no result"):
        load(path)


def test_arrays_that_are_shorter_than_their_entry_are_refused(tmp_path: Path) -> None:
    # The checksum stands at the end of an entry, which an array of another shape does not reach.
    path = tmp_path / "eigen.npz"
    eigen().save(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content.replace(b"(2,)", b"(1,)") if name == "eigenvalues.npy" else content)
    with pytest.raises(InvalidInputError, match="'eigenvalues' is shorter"):
        load(path)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")


def test_errors_of_others_are_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    eigen().save(tmp_path / "eigen.npz")
    with pytest.raises(RuntimeError, match="out of memory"), read_npz(tmp_path / "eigen.npz", "result"):
        raise RuntimeError("out of memory on the device")


def test_kinds_of_results_are_known_from_their_definition_on(tmp_path: Path) -> None:
    @record
    class Counted(Result):
        count: int
        where: np.ndarray = vector()

    Counted(**MADE, notes="not verified", count=3, where=np.arange(4)).save(tmp_path / "counted.npz")
    again = load(tmp_path / "counted.npz")
    assert type(again) is Counted
    assert again.summary() == {**MADE, "notes": "not verified", "count": 3}
    assert again.where.tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="count"):
        Counted(**MADE, where=np.arange(4))


@pytest.mark.parametrize("result", ALL, ids=lambda result: type(result).__name__)
def test_results_are_pickled_and_copied(result: Result) -> None:
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        assert type(again) is type(result) and again is not result
        np.testing.assert_equal(again.summary(), result.summary())
        assert str(again) == str(result)


def test_copies_keep_their_framework_and_pickles_leave_the_model_behind() -> None:
    made = eigen()
    there, deep = pickle.loads(pickle.dumps(made)), copy.deepcopy(made)
    for again in (there, deep):
        assert torch.equal(again.rows, made.rows) and again.rows.data_ptr() != made.rows.data_ptr()
    assert deep.eigenvector_tree(0)["weight"].tolist() == [1, 0, 0, 0, 0]
    assert there.eigenvector_tree(0)["a"].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("result", ALL, ids=lambda result: type(result).__name__)
def test_summary_is_json_with_every_number_but_the_vectors(result: Result) -> None:
    summary = json.loads(json.dumps(result.summary()))
    assert set(summary) == set(vars(result)) - {"rows", "structure"}


def test_summary_leaves_numpy_vectors_out_too() -> None:
    assert "rows" not in eigen(rows=np.eye(5)[:2]).summary()


def test_text_states_errors_costs_and_failure() -> None:
    text = str(eigen())
    assert repr(eigen()) == text
    assert all(part in text for part in ("12 products", "100 samples", "LA", "2.0e-06", "2.0e-03"))
    assert "not converged" not in text
    assert "not converged: ran out" in str(eigen(converged=False, message="ran out"))
    low, high = estimated_trace([1.0, 2.0, 4.0]).interval
    assert f"{low:.6g} to {high:.6g}" in str(estimated_trace([1.0, 2.0, 4.0]))
    assert "mean" in str(TWO_PROBES) and "from 0 to 10" in str(TWO_PROBES)


def test_text_cuts_long_tables_in_the_middle() -> None:
    many = np.arange(100.0)
    lines = str(eigen(eigenvalues=many, residuals=many, bounds=many)).splitlines()
    assert len(lines) < 40
    assert lines[2].split()[0] == "0" and lines[-1].split()[0] == "99"
    assert "..." in lines[2 + (len(lines) - 2) // 2]


def test_html_has_the_lines_and_the_table_escaped() -> None:
    html = eigen(converged=False, message="a < b")._repr_html_()
    assert "100 samples" in html and "not converged: a &lt; b" in html
    assert html.count("<tr>") == 3 and html.count("<th>") == 3
    assert "<td>1.0e-06</td>" in html and "error &lt;=" in html
    assert "<table>" not in estimated_trace([1.0, 2.0])._repr_html_()


def test_frames_have_a_row_for_each_item_and_the_rest_beside() -> None:
    pytest.importorskip("pandas")
    frame = eigen().to_frame()
    assert list(frame.columns) == ["eigenvalues", "bounds", "residuals"]
    assert frame["bounds"].tolist() == [1e-6, 2e-6]
    assert frame.attrs["which"] == "LA" and frame.attrs["matvecs"] == 12
    assert set(frame.columns) | set(frame.attrs) == set(eigen().summary())
    assert len(TWO_PROBES.to_frame()) == len(TWO_PROBES.nodes)


def test_frames_of_numbers_have_one_row() -> None:
    pandas = pytest.importorskip("pandas")
    made = estimated_trace([1.0, 2.0, 4.0])
    frame = made.to_frame()
    assert frame.shape[0] == 1
    row = frame.iloc[0]
    assert (row["estimate"], row["interval_low"], row["interval_high"]) == (made.estimate, *made.interval)
    assert next(iter(frame.columns)) == "estimate"
    assert len(pandas.concat([frame, estimated_trace([3.0, 5.0]).to_frame()])) == 2


def test_frames_of_several_quantities_have_a_column_for_each() -> None:
    pytest.importorskip("pandas")

    @record
    class Several(Result):
        scores: np.ndarray = column()

    frame = Several(**MADE, scores=np.arange(6.0).reshape(3, 2)).to_frame()
    assert frame["scores[1]"].tolist() == [1.0, 3.0, 5.0]


def test_frames_without_pandas_name_the_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidInputError, match="pip install pandas"):
        eigen().to_frame()


def test_results_compare_by_identity() -> None:
    assert eigen() != eigen()
    assert len({*ALL}) == 3


@pytest.mark.parametrize("made", [ONE_PROBE, TWO_PROBES])
@pytest.mark.parametrize("sigma", [None, 0.05])
def test_pdf_has_mass_one(made: SpectralDensity, sigma: float | None) -> None:
    x = np.linspace(-60, 70, 200_001)
    assert scipy.integrate.trapezoid(made.pdf(x, sigma), x) == pytest.approx(1.0, abs=1e-9)


def test_cdf_jumps_at_nodes_by_their_weights() -> None:
    assert ONE_PROBE.cdf([-1.0, 0.0, 0.5, 1.0, 3.0]).tolist() == [0.0, 0.5, 0.5, 0.75, 1.0]


def test_integrals_of_a_constructed_density() -> None:
    # Probe means 0.25 and 1 on 99 of 100 eigenvalues, and one known 10.
    samples = 0.1 + 0.99 * np.array([0.25, 1.0])
    mean = TWO_PROBES.moment(1)
    assert mean.estimate == pytest.approx(samples.mean())
    assert mean.standard_error == pytest.approx(np.abs(np.diff(samples))[0] / 2)
    assert mean.interval[0] < mean.estimate < mean.interval[1]
    assert TWO_PROBES.moment(0).estimate == pytest.approx(1.0)
    known = TWO_PROBES.count(5, 20)
    assert (known.estimate, known.standard_error) == (pytest.approx(1.0), pytest.approx(0.0))


@given(st.floats(-1, 4), st.floats(-1, 4), st.floats(-1, 4))
def test_counts_add_up_and_agree_with_the_cdf(a: float, b: float, c: float) -> None:
    a, b, c = sorted((a, b, c))
    total = ONE_PROBE.count(a, c).estimate
    assert ONE_PROBE.count(a, b).estimate + ONE_PROBE.count(b, c).estimate == pytest.approx(total)
    assert total == pytest.approx(ONE_PROBE.n * (ONE_PROBE.cdf(c) - ONE_PROBE.cdf(a)))


def test_one_probe_has_the_error_of_a_random_vector() -> None:
    value = ONE_PROBE.moment(1)
    variance = ONE_PROBE.weights @ (ONE_PROBE.nodes - 1.0) ** 2
    assert value.estimate == 1.0
    assert value.standard_error == pytest.approx(math.sqrt(2 * variance / (ONE_PROBE.n + 2)))
    assert value.interval[1] - 1.0 == pytest.approx(1.959964 * value.standard_error)


def test_a_density_of_known_eigenvalues_only_is_exact() -> None:
    made = density([], known=[1.0, 2.0, 6.0], n=3)
    assert made.moment(1).interval == (pytest.approx(3.0), pytest.approx(3.0))
    assert "mean 3" in str(made)


@pytest.mark.parametrize(
    ("f", "text"),
    [(lambda x: 1.0, "one value a node"), (lambda x: x[1:], "one value a node"), (lambda x: x / 0, "not finite")],
)
def test_integrands_are_checked(f, text: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(InvalidInputError, match=text):
        ONE_PROBE.integrate(f)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(InvalidInputError, match="sigma must be positive"):
        ONE_PROBE.pdf(0.0, sigma)


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
