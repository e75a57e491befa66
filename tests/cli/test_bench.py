"""The verb itself: every bench in one small run, one JSON object on stdout, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import gptcli
from gptcli.report.bench import everything, limits
from gptcli.report.bench.decoding import DecodingRequest
from gptcli.report.bench.encoding import EncodingRequest
from gptcli.report.bench.training import TrainingRequest

SHAPE = """
[model]
vocab_size = 61
context_length = 32
n_layer = 1
n_head = 2
n_embd = 32
"""


@pytest.mark.slow
def test_without_a_command_every_bench_is_in_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, text = tmp_path / "tiny.toml", tmp_path / "text.txt"
    shape.write_text(SHAPE)
    text.write_text("A line of text, and another one.\n" * 200)
    monkeypatch.setattr(everything, "SECONDS", dict.fromkeys(everything.SECONDS, 0.01))
    monkeypatch.setattr(limits, "GPT2", {"a small one": (64, 48, 32)})
    monkeypatch.setattr(everything, "TRAINING", TrainingRequest(str(shape), (), 2, 16))
    decoding = DecodingRequest(str(shape), batch_sizes=(2,), numbers=("fp32",), prompt_tokens=4, new_tokens=8)
    monkeypatch.setattr(everything, "DECODING", decoding)
    monkeypatch.setattr(everything, "ENCODING", EncodingRequest((str(text),), vocab_size=300))
    done = gptcli("bench", "--rounds", "1", "--threads", "1", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert list(printed["results"]) == ["limits", "train", "generate", "data"]
    assert set(printed["versions"]) == {"gptcli", "python", "torch"}
    figures = printed["results"]["limits"]["figures"]
    assert all(one["rate"]["median"] > 0 for one in figures if "rate" in one)
    assert {one["dtype"] for one in figures if one["what"] == "gemm" and "rate" in one} >= {"fp32", "bf16"}
    assert set(printed["results"]["train"]["contenders"]) == {"gptcli"}
    [batch] = printed["results"]["generate"]["batches"]
    assert batch["contenders"]["gptcli fp32"]["of_limit"]["median"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--rounds", "2", "limits"], "there are options before limits; put them after it"),
        (["bench", "train", "--model", "gpt2-124"], "no config file gpt2-124; did you mean gpt2-124m?"),
        (["bench", "generate", "--batch-sizes", "1,x"], "'x' is not a whole number above 0"),
        (["bench", "generate", "--numbers", "fp8"], "'fp8' is none of fp32, bf16, int8"),
        (["bench", "limits", "--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(arguments: list[str], message: str) -> None:
    done = gptcli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("gptcli: ") and message in last


def test_a_missing_corpus_of_data_is_a_data_error() -> None:
    done = gptcli("bench", "data", "no-such-file.txt")
    assert done.returncode == 3 and "no-such-file.txt" in done.stderr
