"""Parity checks: the logits of a written file, as another reader computes them, against those of the model.

A check runs both on the same tokens and measures the largest difference of the logits and how often both prefer the
same token. A reader is a function from token ids to logits. Shapes: B batch, T time, V vocab.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, DataError
from gptcli.interop.load import LoadedModel
from gptcli.manifest import require_unchanged
from gptcli.models.gpt import GPT

Logits = Callable[[Tensor], Tensor]
"""ids (B, T) -> logits (B, T, V) in fp32."""

ROWS, LENGTH = 4, 64
EXACT = 1e-2
"""The largest difference, as a fraction of the largest logit, of two computations with the same weights. Most are a
thousand times closer, but llama.cpp looks GELU up in a table of fp16. A misplaced weight gives a fraction near one."""


@dataclass(frozen=True)
class ParityCheck:
    """The comparison with one reader.

    Attributes:
        reader: the program that read the file.
        max_difference: largest |Δlogit|.
        largest_logit: largest |logit| of the original, to compare the difference with.
        greedy_agreement: fraction of the positions at which both give the highest logit to the same token.
        tokens: number of positions compared.
        how: how the compared model was made, in words.
        tolerance: the largest fraction of the largest logit that rounding explains.
    """

    reader: str
    max_difference: float
    largest_logit: float
    greedy_agreement: float
    tokens: int
    how: str = "read back by"
    tolerance: float = EXACT

    @property
    def is_exact(self) -> bool:
        """True if rounding explains the difference."""
        return self.max_difference <= self.tolerance * max(1.0, self.largest_logit)

    def __str__(self) -> str:
        return (
            f"{self.how} {self.reader}: max |Δlogit| {self.max_difference:.2e} (largest logit "
            f"{self.largest_logit:.1f}), the same greedy token at {self.greedy_agreement:.1%} of {self.tokens} places"
        )


@torch.no_grad()
def compare(model: GPT, reader: str, logits: Logits, ids: Tensor) -> ParityCheck:
    """Compare `model`, which is in fp32, with a reader on ids (B, T)."""
    ours, theirs = model(ids).float(), logits(ids).float()
    # A reader may have rows for tokens that pad the vocabulary.
    difference = (ours - theirs[..., : ours.shape[-1]]).abs().max().item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    return ParityCheck(reader, difference, ours.abs().max().item(), agreement, ids.numel())


def require_exact(checks: Iterable[ParityCheck], place: object, *, only_finite: bool = False) -> None:
    """Refuse files that compute something else than the model.

    Args:
        place: the name of the files, for the message.
        only_finite: whether logits may differ, since the weights were rounded, as long as they are finite.

    Raises:
        CheckpointError: a reader's logits differ by more than rounding explains, or are not finite.
    """
    for check in checks:
        if not (math.isfinite(check.max_difference) if only_finite else check.is_exact):
            raise CheckpointError(
                f"{place} does not compute what the model does: {check}", "do not use it; report this"
            )


def parity_ids(loaded: LoadedModel) -> Tensor:
    """Return token ids (B, T) to compare on: the beginning of the run's validation split, or random ids."""
    length = min(LENGTH, loaded.model.config.context_length)
    text = validation_ids(loaded, ROWS * length)
    if text is not None:
        return text.view(ROWS, length)
    size = min(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size)
    return torch.randint(size, (ROWS, length), generator=torch.Generator().manual_seed(0))


def validation_ids(loaded: LoadedModel, count: int) -> Tensor | None:
    """Return the first `count` token ids (count,) of the validation split that a run keeps, or None."""
    if loaded.run is None:
        return None
    require_unchanged(loaded.run.path, "val")
    try:
        shards = TokenShards.open(loaded.run.path / "val")
        if len(shards) < count or shards.tokenizer_fingerprint != loaded.tokenizer.fingerprint:
            return None
        return torch.from_numpy(shards.read(0, count).astype("int64"))
    except DataError:
        return None
