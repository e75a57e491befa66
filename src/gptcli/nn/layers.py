"""Linear and Embedding that draw no weights when made: `models.gpt.initialize` does, or a checkpoint is loaded.

torch's own draw at once, and do so on the meta device too, where that makes torch import its compiler (over a second).
"""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        pass
