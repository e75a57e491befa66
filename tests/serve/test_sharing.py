"""Adapters over one base share its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcli.generate.config import GenerationConfig
from gptcli.interop.adapted import write_adapter
from gptcli.interop.load import load_model
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.adapters import add_adapter, lora_modules
from gptcli.models.gpt import GPT
from gptcli.serve.loading import ModelLoader, read_sources
from gptcli.serve.models import ModelTable
from gptcli.serve.settings import ServeSettings
from gptcli.serve.sharing import shares_its_base
from gptcli.session import ModelRequest, open_session
from tiny_base import write_tiny_base

GREEDY = GenerationConfig(max_new_tokens=8, temperature=0.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_base(tmp_path / "base", init_std=0.3)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Callable[[int], Path]:
    """adapter(seed) writes an adapter of the base that changes what it computes."""

    def write(seed: int) -> Path:
        loaded, config = load_model(base), LoraConfig(rank=2)
        reference = loaded.as_base()
        model = add_adapter(loaded.model, config, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, module in lora_modules(model):
                module.lora_b.copy_(torch.randn(module.lora_b.shape, generator=generator))
        directory = tmp_path / f"adapter-{seed}"
        directory.mkdir()
        write_adapter(model, config, reference, loaded.tokenizer, directory)
        return directory

    return write


def memory_of(model: GPT) -> dict[int, int]:
    return {tensor.data_ptr(): tensor.nbytes for tensor in model.parameters()}


@pytest.mark.slow
def test_adapters_of_one_base_hold_its_weights_once_and_answer_as_if_they_were_merged(
    base: Path, adapter: Callable[[int], Path]
) -> None:
    paths = [str(base), str(adapter(1)), str(adapter(2))]
    sources = read_sources(paths, ModelRequest("", device="cpu"))
    table = ModelTable([source.name for source in sources])
    loader = ModelLoader(table, sources, ServeSettings(slots=2, queue=200), False, lambda: None)
    loader.run()
    loader.stop()
    assert loader.error is None
    sessions = [served.session for served in table.served()]
    own = [memory_of(session.model) for session in sessions]
    together = {place: size for memory in own for place, size in memory.items()}
    alone = sum(own[0].values())
    adapters = sum(size for memory in own[1:] for place, size in memory.items() if place not in own[0])
    assert sum(together.values()) == alone + adapters and adapters < alone / 2
    for path, session in zip(paths, sessions, strict=True):
        merged = open_session(ModelRequest(path, device="cpu"))
        found, expected = (one.generate(["The cat"], GREEDY).prompts[0].completions[0] for one in (session, merged))
        assert found.tokens == expected.tokens
    table.close()


def test_an_adapter_alone_is_merged(base: Path, adapter: Callable[[int], Path]) -> None:
    path = str(adapter(1))
    assert not shares_its_base(path, []) and not shares_its_base(str(base), [path])
    assert shares_its_base(path, [str(base)]) and shares_its_base(path, [str(adapter(2))])
