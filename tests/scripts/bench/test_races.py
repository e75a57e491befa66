"""Real comparisons, tiny: training, generation and encoding by other programs, in turn with gptcli."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from bench.peers import choose_peers, llama_cpp, peft
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.estimate import flops_per_token
from gptcli.report.bench import decoding, encoding, ours, training
from gptcli.report.bench.comparison import ratios
from gptcli.report.bench.decoding import DecodingRequest, random_prompts, tasks
from gptcli.report.bench.encoding import EncodingRequest
from gptcli.report.bench.jobs import DecodingJob, TrainingJob
from gptcli.report.bench.models import named_shape, write_random_model
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.training import TrainingRequest, resolve
from interop import stand_in_llama_cpp

OPTIONS = BenchOptions(rounds=2, seconds=0.2, threads=1, device="cpu")
STRONG = ("model.init_std=0.3",)
"""Weights so large that the text depends on all that was read."""
TEXT = "".join(
    f"Line {n}: the {('cat', 'dog', 'owl')[n % 3]}'s count is {n * n},  naïve 東京 ½!\n\n" for n in range(300)
)


@pytest.mark.slow
def test_a_comparison_of_three_gives_consistent_figures(shape: Path, checkout: Path) -> None:
    pytest.importorskip("transformers")
    request = TrainingRequest(str(shape), (), batch_size=2, seq_len=16)
    peers = choose_peers(["transformers", f"nanogpt={checkout}"], "train")
    outcome = training.measure(request, BenchOptions(rounds=3, seconds=0.05, threads=1, device="cpu"), peers)
    contenders = outcome.results["contenders"]
    assert list(contenders) == ["gptcli", "transformers", "nanogpt"]
    ours, theirs = contenders["gptcli"], contenders["transformers"]
    assert ours["parameters"] == theirs["parameters"], "the same shape"
    rounds = {name: one["tokens_per_second"]["rounds"] for name, one in contenders.items()}
    assert all(len(rates) == 3 for rates in rounds.values())
    expected = ratios(rounds["gptcli"], rounds["transformers"])
    assert theirs["ours_over_this"]["median"] == pytest.approx(expected.median, rel=1e-3)
    for one in contenders.values():
        assert one["first_loss"] == pytest.approx(math.log(61), rel=0.1), "untrained"
        assert one["loss"] < one["first_loss"] - 0.1, "it learns the batch"
        assert one["peak_memory_bytes"] > 1e6
    config = resolve(request)
    limit = outcome.results["limit"]["flops_per_second"]
    fraction = ours["of_limit"]
    flops = flops_per_token(config.model, 16)
    slowest, fastest = min(rounds["gptcli"]) * flops / limit["high"], max(rounds["gptcli"]) * flops / limit["low"]
    assert slowest * 0.99 <= fraction["low"] <= fraction["median"] <= fraction["high"] <= fastest * 1.01
    [table] = outcome.tables
    assert [row[0].split(" ")[0] for row in table.rows] == ["gptcli", "transformers", "nanogpt"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_peft_trains_adapters_of_the_same_size_as_ours() -> None:
    pytest.importorskip("peft")
    shape = ("model.n_layer=1", "model.n_embd=64", "model.vocab_size=61")
    config = resolve(TrainingRequest("qwen3-5m", shape, batch_size=2, seq_len=16, adapter=LoraConfig(rank=3)))
    job = TrainingJob(config.model_dump(mode="json"), "cpu", "fp32", seconds=0.01)
    contenders = [program.train(job) for program in (ours, peft)]
    assert contenders[0].facts["parameters"] == contenders[1].facts["parameters"]
    for contender in contenders:
        assert contender.facts["first_loss"] == pytest.approx(math.log(61), rel=0.1), "untrained"
        assert contender.run_round(5)["loss"] < contender.facts["first_loss"], "it learns the batch"


@pytest.mark.slow
def test_transformers_and_ctranslate2_write_the_same_text_as_ours(shape: Path, checkout: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("ctranslate2")
    request = DecodingRequest(str(shape), STRONG, batch_sizes=(1, 3), numbers=("fp32",), prompt_tokens=6, new_tokens=20)
    peers = choose_peers(["transformers", "ctranslate2", f"nanogpt={checkout}"], "generate")
    results = decoding.measure(request, OPTIONS, peers).results
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
    theirs, expected = llama_cpp.generate(job).run_round(batch)["rows"], ours.generate(job).run_round(batch)["rows"]
    assert theirs == expected and [len(row) for row in theirs] == [20] * batch


@pytest.mark.slow
@pytest.mark.parametrize("numbers", ["fp32", "int8"])
def test_llama_cpp_writes_the_same_text_as_ours(shape: Path, numbers: str) -> None:
    pytest.importorskip("llama_cpp")
    request = DecodingRequest(str(shape), STRONG, (1, 3), (numbers,), prompt_tokens=6, new_tokens=20)
    for batch in decoding.measure(request, OPTIONS, choose_peers(["llama-cpp"], "generate")).results["batches"]:
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


@pytest.mark.slow
def test_every_library_gives_the_same_ids(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name}: {TEXT}")
    request = EncodingRequest((str(tmp_path),), vocab_size=400)
    peers = choose_peers(["tokenizers", "tiktoken"], "data")
    outcome = encoding.measure(request, BenchOptions(2, 0.05, 1, "cpu"), peers)
    results = outcome.results
    assert results["documents"] == 3
    assert results["bytes"] == sum(len(f"{name}: {TEXT}".encode()) for name in "abc")
    assert list(results["contenders"]) == ["gptcli", "tokenizers", "tiktoken"]
    for one in results["contenders"].values():
        assert one["same_ids_as_ours"]
        assert one["tokens"] == results["contenders"]["gptcli"]["tokens"] > results["bytes"] / 10
        assert one["bytes_per_second"]["low"] > 0
        assert 0 < one["cores"]["high"] < 1.2, "one thread"
    assert results["batches"]["tokens_per_second"]["low"] > 0
