"""Structures of arrays that refuse the core: taken apart, cut by samples, and put together again."""

import dataclasses
from collections import UserDict
from typing import Any

import numpy as np
import pytest

from specop.errors import InvalidInputError
from specop.objectives.calling import Calling, calling_function
from specop.objectives.parameters import ParameterTree
from specop.objectives.trees import Constant, Trees


@pytest.fixture
def trees(minicupy):
    """Structures of minicupy, whose own containers are tuples and dicts."""

    def flatten(structure):
        if isinstance(structure, (tuple, dict)):
            items = structure.values() if isinstance(structure, dict) else structure
            parts = [flatten(item) for item in items]
            keys = tuple(structure) if isinstance(structure, dict) else len(structure)
            return [leaf for leaves, _ in parts for leaf in leaves], (keys, *(treedef for _, treedef in parts))
        return [structure], None

    def unflatten(treedef, leaves):
        waiting = iter(leaves)

        def build(treedef):
            if treedef is None:
                return next(waiting)
            keys, *inside = treedef
            items = [build(one) for one in inside]
            return dict(zip(keys, items, strict=True)) if isinstance(keys, tuple) else tuple(items)

        return build(treedef)

    def names(structure, prefix=""):
        if isinstance(structure, (tuple, dict)):
            pairs = structure.items() if isinstance(structure, dict) else enumerate(structure)
            return [name for key, item in pairs for name in names(item, f"{prefix}{key}.")]
        return [prefix.rstrip(".") or "params"]

    return Trees(
        flatten=flatten,
        unflatten=unflatten,
        names=names,
        as_array=lambda leaf: leaf if isinstance(leaf, minicupy.ndarray) else None,
        shape=lambda array: tuple(array.shape) if isinstance(array, minicupy.ndarray) else None,
        between=lambda array, start, stop: array[start:stop],
        at=lambda array, indices: array[indices],
        join=np.concatenate,
    )


@dataclasses.dataclass
class Pair:
    x: Any
    note: str
    seen: Any = dataclasses.field(init=False, default=None)


class Tokens(UserDict):
    """A mapping that no framework knows, as tokenizers return them."""


def batch(array):
    return {
        "pair": Pair(array(np.arange(8.0).reshape(4, 2)), "held"),
        "tokens": Tokens(ids=array(np.arange(4)), length=3),
        "scale": (array(np.array(2.0)), array(np.arange(3.0))),
    }


def test_samples_are_cut_out_of_arrays_that_have_them(trees, minicupy):
    data = batch(minicupy.asarray)
    assert trees.count(data) == 4
    for cut, places in [(trees.take(data, 1, 3), [1, 2]), (trees.pick(data, np.array([3, 0])), [3, 0])]:
        assert isinstance(cut["pair"], Pair) and isinstance(cut["tokens"], Tokens)
        np.testing.assert_array_equal(cut["pair"].x.get(), np.arange(8.0).reshape(4, 2)[places])
        np.testing.assert_array_equal(cut["tokens"]["ids"].get(), places)
        assert (cut["pair"].note, cut["tokens"]["length"]) == ("held", 3)
        assert cut["scale"] == data["scale"]
    # The user's own containers stay as they are.
    np.testing.assert_array_equal(data["tokens"]["ids"].get(), np.arange(4))


def test_frames_tell_structures_and_constants_apart(trees, minicupy):
    arrays, frame = trees.take_apart(batch(minicupy.asarray))
    assert len(arrays) == 4
    same = trees.take_apart(batch(lambda values: minicupy.asarray(values + 1)))[1]
    assert frame == same and hash(frame) == hash(same)
    for change in (
        lambda data: setattr(data["pair"], "note", "another"),
        lambda data: data["tokens"].update(length=3.0),
        lambda data: data["tokens"].update(more=minicupy.asarray(np.ones(4))),
        lambda data: data.update(scale=1),
    ):
        other = batch(minicupy.asarray)
        change(other)
        assert trees.take_apart(other)[1] != frame
    # What cannot be compared by value is equal to itself only.
    assert Constant([1]) != Constant([1]) and Constant(1) != Constant(True)


def test_a_frame_holds_no_arrays(trees, minicupy):
    first = batch(minicupy.asarray)
    _, frame = trees.take_apart(first)
    filled = frame.fill("abcd")
    assert filled["pair"].x == "a" and filled["tokens"]["ids"] == "b" and filled["scale"] == ("c", "d")
    assert frame.fill("efgh")["tokens"]["ids"] == "f" and filled["tokens"]["ids"] == "b"


def test_parameters_have_the_names_of_their_places(trees, minicupy):
    params = batch(minicupy.asarray)
    tree = ParameterTree(trees, params, lambda array: array.dtype.kind == "f", lambda array: array.dtype.kind == "c")
    assert list(tree.arrays) == ["pair.x", "tokens.ids", "scale.0", "scale.1"]
    assert list(tree.select(None)) == ["pair.x", "scale.0", "scale.1"]
    assert list(tree.select("scale", among=["pair.x", "scale.1"])) == ["scale.1"]
    other = minicupy.asarray(np.ones(3))
    moved = tree.structure({"scale.1": other})
    assert moved["scale"] == (params["scale"][0], other) and moved["pair"].x is params["pair"].x
    assert tree.arrays_of(moved, ["scale.1", "pair.x"]) == {"scale.1": other, "pair.x": params["pair"].x}
    with pytest.raises(InvalidInputError, match="expected a structure like params"):
        tree.arrays_of({"pair": params["pair"]}, ["pair.x"])


def test_callings_are_equal_where_they_call_the_same():
    class Unhashable:
        __hash__ = None

        def __eq__(self, other):
            return True

        def __call__(self, outputs, target):
            return outputs, target

    def function(params, batch):
        return params

    criterion = Unhashable()
    one, same = (calling_function(function, criterion, None) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    assert one != calling_function(function, Unhashable(), None)
    assert one.loss("z", ("x", "y")) == ("z", "y") and one.loss("z", ["x"]) == ("z", ["x"])
    assert Calling(one.function, one.criterion, True).compare("z", ("x", "y")) == ("z", ("x", "y"))
