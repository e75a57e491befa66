"""Direct preference optimization: the loss of pairs of a chosen and a rejected answer.

A row of a batch holds whole pairs, each the segments 2p (chosen) and 2p + 1 (rejected) of the row; the padding after
them is one more segment, without targets. The targets are the tokens of the answers.

Shapes: B rows, T time, P most pairs of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.data.batch import Batch
from gptcli.models.gpt import GPT
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.objective.config import DPOConfig
from gptcli.objective.objective import LossFunction, LossSums, Objective, Scores


class PairLosses(NamedTuple):
    """The loss of each pair, (B, P), its figures, (K, B, P), and whether there is such a pair."""

    loss: Tensor
    figures: Tensor
    is_pair: Tensor


class DPO(Objective):
    """The sigmoid loss of DPO (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290), the mean over the pairs.

    A reward is beta times the log-ratio of the model and the reference on an answer. The estimate of the divergence is
    Schulman's k2 (http://joschu.net/blog/kl-approx.html): half the squared log-ratio of a token, summed over an answer.
    To second order that is the divergence from either model to the other.
    """

    compares = True
    figure_names = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl")
    shown = ("reward_accuracy", "reward_margin")

    def __init__(self, config: DPOConfig) -> None:
        self.beta, self.label_smoothing = config.beta, config.label_smoothing

    def loss_function(self, model: GPT) -> LossFunction:
        """Return the nats of each target."""
        return model.token_losses

    def count(self, batch: Batch, tokens: int) -> int:
        """Return the number of pairs."""
        return int(sums_of_answers(targeted(batch), batch, most_pairs(batch)).bool().all(-1).sum())

    def sums(self, loss_function: LossFunction, batch: Batch, device: torch.device) -> LossSums:
        """Return the sums of the pairs' losses and figures."""
        most, batch = most_pairs(batch), batch.to(device)
        pairs = self.pairs(loss_function(*batch.model_inputs), batch, most)
        return LossSums(pairs.loss.sum(), pairs.figures.sum((1, 2)))

    def scores(self, nats: Tensor, batch: Batch) -> Scores:
        """Return loss and figures of each pair, whose place is that of its last target."""
        most = most_pairs(batch)
        pairs = self.pairs(nats.cpu(), batch, most)
        numbers = torch.arange(batch.targets.numel()).view(batch.targets.shape)
        is_last = targeted(batch).bool() & (segments_of(batch) % 2 == 1)
        pair_of = torch.where(is_last, segments_of(batch) // 2, most)  # (B, T)
        last = torch.zeros(len(numbers), most + 1, dtype=torch.long).scatter_reduce(1, pair_of, numbers, "amax")
        values = torch.cat((pairs.loss[None], pairs.figures))[:, pairs.is_pair]
        return Scores(last[:, :most][pairs.is_pair].numpy(), values.double().numpy())

    def pairs(self, nats: Tensor, batch: Batch, most: int) -> PairLosses:
        """Return what each pair contributes, given the nats (B, T) of each target under the model.

        With r the difference of the rewards and s the label smoothing, the loss is
        -(1 - s) log sigmoid(r) - s log sigmoid(-r): equation 7 of the paper, and of conservative DPO (Mitchell 2023,
        https://ericmitchell.ai/cdpo.pdf).

        Args:
            most: the most pairs of a row, P.
        """
        assert batch.reference is not None, "the batches of DPO have the nats of the reference"
        ratios = batch.reference - nats  # (B, T), log(model / reference); 0 where there is no target
        rewards = self.beta * sums_of_answers(ratios, batch, most)  # (B, P, 2)
        is_pair = sums_of_answers(targeted(batch), batch, most).bool().all(-1)  # (B, P)
        margins = rewards[..., 0] - rewards[..., 1]
        losses = (self.label_smoothing - 1) * F.logsigmoid(margins) - self.label_smoothing * F.logsigmoid(-margins)
        with torch.no_grad():
            divergences = sums_of_answers(ratios.square() / 2, batch, most).mean(-1)
            figures = torch.stack((rewards[..., 0], rewards[..., 1], margins, margins > 0, divergences))
        return PairLosses(losses * is_pair, figures * is_pair, is_pair)


def targeted(batch: Batch) -> Tensor:
    """Return (B, T): 1.0 where there is a target, 0.0 elsewhere."""
    return (batch.targets != IGNORE_INDEX).float()


def most_pairs(batch: Batch) -> int:
    """Return the most pairs of a row of a batch in the host's memory; a GPU would have to be waited for."""
    return int((segments_of(batch) * (batch.targets != IGNORE_INDEX)).max()) // 2 + 1


def sums_of_answers(values: Tensor, batch: Batch, most: int) -> Tensor:
    """Sum values (B, T) over the answers of each pair: (B, most, 2), the chosen ones first.

    A scatter would be shorter, but its order of additions, and so its rounding, varies on a GPU.
    """
    numbers = torch.arange(2 * most, device=values.device)[None, :, None]
    is_within = segments_of(batch)[:, None, :] == numbers  # (B, 2 * most, T)
    sums = torch.where(is_within, values[:, None, :], 0.0).sum(-1)  # (B, 2 * most)
    return sums.view(len(sums), most, 2)


def segments_of(batch: Batch) -> Tensor:
    """Return the segments (B, T) of a batch of pairs, which all have them."""
    assert batch.segment_ids is not None, "the batches of DPO have segments"
    return batch.segment_ids
