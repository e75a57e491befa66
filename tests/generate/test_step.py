"""The compiled step draws what the model itself draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.generate import step
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine, Row
from gptcli.generate.step import CompiledStep
from gptcli.models.gpt import GPT
from gptcli.models.inference import quantized
from gptcli.nn.compiling import missing_compiler

PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 8, 4, 9, 8, 4, 9, 8]]


def texts(model: GPT, made: CompiledStep | None, config: GenerationConfig) -> list[list[int]]:
    rows = [Row(list(prompt), i, len(prompt)) for i, prompt in enumerate(PROMPTS)]
    for _ in Engine(model, config, eot_id=3, step=made).run(rows):
        pass
    return [row.ids for row in rows]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(bool(missing_compiler(torch.device("cpu"))), reason="there is no C++ compiler")
@pytest.mark.parametrize("quantize", [False, True], ids=["fp32", "int8"])
def test_a_compiled_step_draws_the_same(make_model: Callable[..., GPT], tmp_path: Path, quantize: bool) -> None:
    """Rows end early, outgrow their cache and slide, so that the step meets several shapes; some tokens are guessed."""
    torch._dynamo.reset()
    model = make_model(torch.float32, context_length=320, n_layer=1)
    if quantize:
        model = quantized(model, "int8")
    config = GenerationConfig(temperature=1.0, max_new_tokens=340)
    made = CompiledStep(model, tmp_path)
    expected = texts(model, None, config)
    assert texts(model, made, config) == expected
    assert texts(model, made, config.model_copy(update={"speculate": 3})) == expected


def test_without_a_compiler_the_remedy_is_named(
    make_model: Callable[..., GPT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "missing_compiler", lambda device: "C++ compiler")
    with pytest.raises(UsageError, match=r"--compile needs C\+\+ compiler.*leave out --compile"):
        CompiledStep(make_model(), tmp_path)
