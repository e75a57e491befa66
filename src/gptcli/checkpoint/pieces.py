"""A tensor of which this process holds only pieces, for a checkpoint that several ranks write or read together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
    from torch.distributed.checkpoint.planner import WriteItem


class Piece(NamedTuple):
    """A part of a whole tensor, and where in the whole its first number is; it may be empty."""

    offsets: tuple[int, ...]
    tensor: Tensor


class Pieces(Tensor):
    """Shape and dtype of the whole tensor, whose numbers are not to be used, and the pieces that are here.

    It answers what torch.distributed.checkpoint asks of a tensor that lies on several ranks (the protocol of
    torch.distributed._checkpointable), as DTensor does; but it can also say that this rank's rows of q, of k and of v
    lie apart in the matrix that they are fused in.
    """

    pieces: tuple[Piece, ...]
    __torch_function__ = torch._C._disabled_torch_function_impl  # what is computed with it is a plain tensor

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype, pieces: Sequence[Piece]) -> Pieces:
        """`shape`: of the whole."""
        made = torch.empty((), dtype=dtype).expand(tuple(shape)).as_subclass(cls)
        made.pieces = tuple(pieces)
        return made

    def each(self, function: Callable[..., Tensor], *others: Sequence[Tensor]) -> Pieces:
        """The same places with what `function` makes of each tensor, and of those of `others` that belong to it."""
        pieces = [
            Piece(offsets, function(tensor, *theirs))
            for (offsets, tensor), *theirs in zip(self.pieces, *others, strict=True)
        ]
        return Pieces.of(self.shape, self.dtype, pieces)

    @property
    def tensors(self) -> list[Tensor]:
        return [piece.tensor for piece in self.pieces]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        held = [piece for piece in self.pieces if piece.tensor.numel()]
        return [ChunkStorageMetadata(torch.Size(piece.offsets), piece.tensor.shape) for piece in held]

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
        return next(piece.tensor for piece in self.pieces if piece.tensor.numel() and piece.offsets == index.offset)


def held(tensor: Tensor) -> list[Tensor]:
    """The tensors that this process has of one: its pieces, or itself."""
    return tensor.tensors if isinstance(tensor, Pieces) else [tensor]


def values_held(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's parts that this process holds, by the names that messages give them."""
    found = {}
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            for number, one in enumerate(held(tensor)):
                found[f"{name} of the {part}" + f" (part {number})" * (number > 0)] = one
    return found
