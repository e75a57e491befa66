"""Tensors of which this process holds only some shards, as several ranks save and load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
    from torch.distributed.checkpoint.planner import WriteItem

Allocator = Callable[[str, torch.Size, torch.dtype], Tensor]
"""(name, shape, dtype) of a saved tensor -> an empty tensor, or empty `LocalShards`, to load it into."""


class LocalShard(NamedTuple):
    """A block of a whole tensor and the index of its first element there. The block may be empty."""

    offsets: tuple[int, ...]
    tensor: Tensor


class LocalShards(Tensor):
    """The shards of one tensor on this rank. Shape and dtype are those of the whole; its own elements have no meaning.

    The class implements the protocol of torch.distributed._checkpointable, as DTensor does. Unlike a DTensor it can
    hold several blocks, such as this rank's rows of q, of k and of v in the matrix that fuses them.
    """

    shards: tuple[LocalShard, ...]
    # Operations on it give plain tensors. The library's function lacks the type of the method that it replaces.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype, shards: Sequence[LocalShard]) -> LocalShards:
        """Return the shards of a tensor of `shape`."""
        made = torch.empty((), dtype=dtype).expand(tuple(shape)).as_subclass(cls)
        made.shards = tuple(shards)
        return made

    def each(self, function: Callable[..., Tensor], *others: Sequence[Tensor]) -> LocalShards:
        """Return shards at the same offsets with `function(tensor, *theirs)`; `others` have one entry per shard."""
        shards = [
            LocalShard(offsets, function(tensor, *theirs))
            for (offsets, tensor), *theirs in zip(self.shards, *others, strict=True)
        ]
        return LocalShards.of(self.shape, self.dtype, shards)

    @property
    def tensors(self) -> list[Tensor]:
        """The blocks without their offsets."""
        return [shard.tensor for shard in self.shards]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        return [
            ChunkStorageMetadata(torch.Size(shard.offsets), shard.tensor.shape)
            for shard in self.shards
            if shard.tensor.numel()
        ]

    def __create_write_items__(self, fqn: str, whole: Any) -> list[WriteItem]:
        from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
        from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

        properties = TensorProperties(dtype=self.dtype)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.shape),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return next(shard.tensor for shard in self.shards if shard.tensor.numel() and shard.offsets == index.offset)


def local_tensors(tensor: Tensor) -> list[Tensor]:
    """Return what this process holds of a tensor: its shards, or the tensor itself."""
    return tensor.tensors if isinstance(tensor, LocalShards) else [tensor]


def named_local_tensors(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's parts that this process holds, by their names in messages."""
    return {
        f"{name} of the {part}" + f" (part {number})" * (number > 0): one
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
        for number, one in enumerate(local_tensors(tensor))
    }
