"""check_parts: whether a data loader gives a process its part of all samples, each of them once and always the same."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from specop.errors import InvalidInputError

__all__ = ["check_parts"]

_RANDOM = RandomSampler, SubsetRandomSampler, WeightedRandomSampler


def check_parts(data: Any, index: int, count: int) -> None:
    """Raise InvalidInputError for a loader that shuffles, that repeats samples, or that is of other processes.

    Samplers of torch are known, and those that accelerate puts around them; what else gives batches is not looked at.

    Parameters
    ----------
    data : object
        Data that an objective was given.
    index, count : int
        Number of this process, from 0, and how many there are.
    """
    if not isinstance(data, DataLoader):
        return
    _check_accelerated(data)
    batches = data.batch_sampler
    # Accelerate cuts the batches of one sampler into parts.
    shard = batches if type(batches).__name__ == "BatchSamplerShard" else None
    inner = getattr(batches, "batch_sampler", batches) if shard is not None else batches
    sampler = getattr(inner, "sampler", data.sampler)
    if isinstance(sampler, _RANDOM) or bool(getattr(sampler, "shuffle", False)):
        raise InvalidInputError(
            f"the loader's {type(sampler).__name__} shuffles: which samples a process has would change, and with "
            f"it the matrix. Pass shuffle=False to the sampler and to the loader."
        )
    if shard is not None:
        _check_shard(shard, sampler, index, count)
    elif isinstance(sampler, DistributedSampler):
        _check_sampler(sampler, index, count)


def _check_sampler(sampler: Any, index: int, count: int) -> None:
    if (sampler.num_replicas, sampler.rank) != (count, index):
        raise _of_another(sampler.rank, sampler.num_replicas, index, count)
    total = len(sampler.dataset)
    if sampler.total_size > total:
        raise _repeats("DistributedSampler", total, sampler.total_size, index, count)


def _check_shard(shard: Any, sampler: Any, index: int, count: int) -> None:
    if (shard.num_processes, shard.process_index) != (count, index):
        raise _of_another(shard.process_index, shard.num_processes, index, count)
    if not shard.even_batches or shard.drop_last or shard.batch_size is None:
        return
    total, together = len(sampler), shard.batch_size * (1 if shard.split_batches else count)
    padded = -(-total // together) * together
    if padded > total:
        raise _repeats("BatchSamplerShard", total, padded, index, count, "pass even_batches=False to accelerate, or ")


def _check_accelerated(data: Any) -> None:
    """Raise InvalidInputError for loaders of accelerate whose samples are not known before they are read."""
    kinds = {kind.__name__ for kind in type(data).__mro__}
    if "DataLoaderDispatcher" in kinds:
        raise InvalidInputError(
            "accelerate's DataLoaderDispatcher reads in one process and sends to all, so that one process cannot read "
            "without the others. Pass dispatch_batches=False, or a loader of this process's own part."
        )
    if type(data.dataset).__name__ == "IterableDatasetShard" and not data.dataset.drop_last:
        raise InvalidInputError(
            "accelerate's IterableDatasetShard fills up the last batches with the first samples, and those would count "
            "twice in the mean. Give each process a loader of its own part; parts need not be of the same size."
        )


def _of_another(rank: int, replicas: int, index: int, count: int) -> InvalidInputError:
    return InvalidInputError(
        f"the loader's sampler is that of process {rank} of {replicas}, and this is process {index} of {count}. Pass "
        f"num_replicas={count} and rank={index}."
    )


def _repeats(name: str, total: int, padded: int, index: int, count: int, or_else: str = "") -> InvalidInputError:
    return InvalidInputError(
        f"the loader's {name} repeats samples: {total} over {count} processes become {padded}, and those that come "
        f"twice count twice in the mean. To count each once, {or_else}give each process its own part, such as "
        f"torch.utils.data.Subset(dataset, range({index}, {total}, {count})) without a sampler; parts need not be of "
        f"the same size."
    )
