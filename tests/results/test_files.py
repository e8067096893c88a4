"""Files of results: what was saved comes back, and what is damaged or foreign is refused."""

import json
import random
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from result_cases import ALL, MADE, eigen, estimated_trace
from specop.errors import InvalidInputError
from specop.results import Result
from specop.results.fields import record, vector
from specop.results.files import read_npz
from specop.results.result import load
from specop.results.structure import Structure
from specop.spectral.eigsh import eigsh

pytestmark = pytest.mark.torch  # result_cases.py has pairs of torch


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


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "eigen.npz"
    for write in (eigen().save, lambda path: eigsh(np.eye(3), 1, checkpoint=path)):
        with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere' to write eigen\.npz in") as caught:
            write(path)
        assert "part" not in str(caught.value) and not path.parent.exists()


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
