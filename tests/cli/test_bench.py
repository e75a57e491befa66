"""The verb itself: every bench in one small run, one JSON object on stdout, errors in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gptcli.cli.app import main
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


def run(*arguments: str) -> int:
    """Run the command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["gptcli", *arguments])
        main()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_without_a_command_every_bench_is_in_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape, text = tmp_path / "tiny.toml", tmp_path / "text.txt"
    shape.write_text(SHAPE)
    text.write_text("A line of text, and another one.\n" * 200)
    monkeypatch.setattr(everything, "SECONDS", dict.fromkeys(everything.SECONDS, 0.01))
    monkeypatch.setattr(limits, "GPT2", {"a small one": (64, 48, 32)})
    monkeypatch.setattr(everything, "TRAINING", TrainingRequest(str(shape), (), 2, 16))
    decoding = DecodingRequest(str(shape), batch_sizes=(2,), numbers=("fp32",), prompt_tokens=4, new_tokens=8)
    monkeypatch.setattr(everything, "DECODING", decoding)
    monkeypatch.setattr(everything, "ENCODING", EncodingRequest((str(text),), vocab_size=300))
    arguments = ("bench", "--rounds", "1", "--threads", "1", "--device", "cpu", "--json")
    assert run(*arguments) == 0
    printed = json.loads(capsys.readouterr().out)
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
def test_a_mistake_is_one_line_with_its_remedy(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("gptcli: ") and message in last


def test_a_missing_corpus_of_data_is_a_data_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "data", "no-such-file.txt") == 3
    assert "no-such-file.txt" in capsys.readouterr().err
