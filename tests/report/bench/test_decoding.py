"""A real contest of generation, tiny: the same greedy text from every program that has the same weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.interop.huggingface import read_huggingface
from gptcli.report.bench import decoding
from gptcli.report.bench.decoding import DecodingRequest, measure, random_prompts, tasks, weights_per_token
from gptcli.report.bench.jobs import DecodingJob
from gptcli.report.bench.models import named_shape, read_config, write_random_model
from gptcli.report.bench.peers import GPTCLI, choose_peers, llama_cpp, ours
from gptcli.report.bench.setting import Setting
from interop import stand_in_llama_cpp

SETTING = Setting(rounds=2, seconds=0.2, threads=1, device="cpu")
STRONG = ("model.init_std=0.3",)
"""Weights so large that the text depends on all that was read."""


@pytest.mark.slow
def test_transformers_and_ctranslate2_write_the_same_text_as_ours(shape: Path, checkout: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("ctranslate2")
    request = DecodingRequest(str(shape), STRONG, batch_sizes=(1, 3), numbers=("fp32",), prompt_tokens=6, new_tokens=20)
    peers = choose_peers(["transformers", "ctranslate2", f"nanogpt={checkout}"], "generate")
    results = measure(request, peers, SETTING).results
    assert [batch["batch_size"] for batch in results["batches"]] == [1, 3]
    for batch in results["batches"]:
        contenders = batch["contenders"]
        assert set(contenders) == {"gptcli fp32", "transformers fp32", "nanogpt fp32", "ctranslate2 fp32"}
        assert contenders["transformers fp32"]["rows_as_ours"] == batch["batch_size"]
        assert contenders["ctranslate2 fp32"]["rows_as_ours"] == batch["batch_size"]
        assert contenders["nanogpt fp32"]["rows_as_ours"] is None, "its weights are others"
        for one in contenders.values():
            assert one["tokens_per_second"]["low"] > 0
            bound = batch["batch_size"] * batch["bytes_per_second"]["high"] / (4 * results["weights_per_token"])
            assert one["of_limit"]["high"] >= 0.99 * one["tokens_per_second"]["low"] / bound


def test_the_weights_of_a_token_are_those_of_the_matrices_and_norms(shape: Path, tmp_path: Path) -> None:
    """Counted on the model itself: all weights but the positions; the tied embedding is read as the head."""
    write_random_model(named_shape(str(shape), ()).model, tmp_path / "model")
    model, _ = read_huggingface(tmp_path / "model")
    counted = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("position_embedding"))
    assert weights_per_token(read_config(str(tmp_path / "model"))) == counted


def test_prompts_differ_from_each_other_and_not_from_run_to_run(shape: Path) -> None:
    request = DecodingRequest(str(shape), prompt_tokens=8, batch_sizes=(1, 4))
    config = named_shape(str(shape), ()).model
    prompts = random_prompts(request, config)
    assert prompts == random_prompts(request, config)
    assert len({tuple(prompt) for prompt in prompts}) == 4
    assert torch.tensor(prompts).shape == (4, 8)
    assert torch.tensor(prompts).max() < config.vocab_size


def test_more_tokens_than_the_context_holds_are_refused(shape: Path) -> None:
    request = DecodingRequest(str(shape), prompt_tokens=16, new_tokens=17)
    with pytest.raises(UsageError, match="more than the model's context of 32; ask for fewer"):
        measure(request, [], SETTING)


def test_a_model_directory_takes_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a model already; leave out --set"):
        measure(DecodingRequest(str(tmp_path), STRONG), [], SETTING)


@pytest.mark.parametrize("batch", [1, 3])
def test_llama_cpp_is_asked_for_the_greedy_text_of_each_prompt(
    shape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setitem(sys.modules, "llama_cpp", stand_in_llama_cpp)
    config = named_shape(str(shape), STRONG).model
    write_random_model(config, tmp_path / "model")
    prompts = random_prompts(DecodingRequest(str(shape), prompt_tokens=6, batch_sizes=(3,)), config)
    job = DecodingJob(str(tmp_path / "model"), str(tmp_path), "fp32", prompts, 20, 0.0, "cpu", 1)
    theirs, expected = llama_cpp.generate(job).play(batch)["rows"], ours.generate(job).play(batch)["rows"]
    assert theirs == expected and [len(row) for row in theirs] == [20] * batch


@pytest.mark.slow
@pytest.mark.parametrize("numbers", ["fp32", "int8"])
def test_llama_cpp_writes_the_same_text_as_ours(shape: Path, numbers: str) -> None:
    pytest.importorskip("llama_cpp")
    request = DecodingRequest(str(shape), STRONG, (1, 3), (numbers,), prompt_tokens=6, new_tokens=20)
    for batch in measure(request, choose_peers(["llama-cpp"], "generate"), SETTING).results["batches"]:
        found = batch["contenders"][f"llama-cpp {numbers}"]
        assert found["tokens_per_second"]["low"] > 0
        assert numbers == "int8" or found["rows_as_ours"] == batch["batch_size"]


def test_a_format_that_a_program_lacks_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("ctranslate2")
    job = DecodingJob("model", "scratch", "", [[1]], 2, 0.1, "cpu", 1)
    found = tasks(job, ("int8",), choose_peers(["transformers", "ctranslate2"], "generate"))
    assert {"ctranslate2 int8", "limit"} <= set(found)
    assert "transformers int8" not in found
    assert found["ctranslate2 int8"].job.numbers == "int8"
    assert "without transformers int8: it keeps weights in fp32 or bf16\n" in capsys.readouterr().err


def test_without_ours_in_any_of_the_formats_there_is_no_contest(shape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "GPTCLI", replace(GPTCLI, numbers=("fp32", "bf16")))
    request = DecodingRequest(str(shape), numbers=("int8",), prompt_tokens=4, new_tokens=4)
    with pytest.raises(UsageError, match="gptcli keeps weights in fp32 or bf16; add one of them to --numbers"):
        measure(request, [], SETTING)
