"""Data loaders that give a process something else than its part of all samples, each of them once."""

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
accelerated = pytest.importorskip("accelerate.data_loader")

from specop.errors import InvalidInputError
from specop_torch.loaders import check_parts


def prepared(samples=33, batch_size=4, index=1, count=2, shuffle=False, drop_last=False, **options):
    data = torch.utils.data.TensorDataset(torch.arange(samples))
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    given = {"num_processes": count, "process_index": index, "put_on_device": False} | options
    return accelerated.prepare_data_loader(loader, **given)


def numbers(loaders):
    return [int(number) for loader in loaders for (batch,) in loader for number in batch]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("samples", [16, 17, 32, 33, 40])
def test_loaders_of_accelerate_are_refused_where_they_repeat_samples(samples, split):
    loaders = [prepared(samples, 4, index, split_batches=split) for index in range(2)]
    read = numbers(loaders)
    for index, loader in enumerate(loaders):
        if sorted(read) == list(range(samples)):
            check_parts(loader, index, 2)
        else:
            assert len(read) > samples
            with pytest.raises(
                InvalidInputError, match=rf"{samples} over 2 .* become {len(read)},.*even_batches=False"
            ):
                check_parts(loader, index, 2)


def test_loaders_that_give_each_sample_once_are_taken():
    for options in ({"even_batches": False}, {"drop_last": True}):
        loaders = [prepared(33, 4, index, **options) for index in range(2)]
        read = numbers(loaders)
        assert len(read) == len(set(read))
        for index, loader in enumerate(loaders):
            check_parts(loader, index, 2)
    # What is no loader is not looked at.
    check_parts([(torch.ones(3), torch.ones(3))], 0, 2)


def test_other_loaders_of_accelerate_are_refused():
    with pytest.raises(InvalidInputError, match=r"shuffles.*shuffle=False"):
        check_parts(prepared(32, shuffle=True), 1, 2)
    with pytest.raises(InvalidInputError, match="process 1 of 2, and this is process 0 of 2"):
        check_parts(prepared(32), 0, 2)
    with pytest.raises(InvalidInputError, match="dispatch_batches=False"):
        check_parts(prepared(32, dispatch_batches=True, put_on_device=True), 1, 2)

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(33))

    loader = torch.utils.data.DataLoader(Endless(), batch_size=4)
    cut = accelerated.prepare_data_loader(
        loader, num_processes=2, process_index=1, put_on_device=False, dispatch_batches=False
    )
    assert len(numbers_of(cut)) == 20
    with pytest.raises(InvalidInputError, match="fills up the last batches"):
        check_parts(cut, 1, 2)


def numbers_of(loader):
    return [int(number) for batch in loader for number in batch]
