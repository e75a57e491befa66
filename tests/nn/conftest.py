"""Weights for modules that are made by themselves: outside a model nobody draws them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn


@pytest.fixture
def drawn() -> Callable[[nn.Module], nn.Module]:
    """Fills a module's weights with normal numbers and returns it in float64."""

    def draw(module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
        return module.double()

    return draw
