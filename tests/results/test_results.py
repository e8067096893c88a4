"""Results: what they say as text, as tables and in a notebook, and that copies say the same."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch

from result_cases import ALL, MADE, TWO_PROBES, eigen, estimated_trace
from specop.errors import InvalidInputError
from specop.results import Result
from specop.results.fields import column, record


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
