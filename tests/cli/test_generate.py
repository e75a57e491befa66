"""The verb itself: options, what goes to stdout and stderr, exit codes."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command import gptcli
from gptcli.cli.generate import generate
from gptcli.generate.config import GenerationConfig


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained byte-level model, as a Hugging Face directory."""
    from gptcli.interop.huggingface import write_huggingface
    from gptcli.models.config import ModelConfig
    from gptcli.models.gpt import build_model
    from gptcli.tokenizer.config import ByteTokenizerConfig
    from gptcli.tokenizer.train import build_tokenizer

    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    shape = {"vocab_size": tokenizer.vocab_size, "context_length": 32, "n_layer": 1, "n_head": 2, "n_embd": 16}
    directory = tmp_path_factory.mktemp("model")
    model = build_model(ModelConfig.model_validate(shape))
    model.embedding.weight.data[tokenizer.eos_id] = 0  # its logit is 0: greedy text never ends
    write_huggingface(model, tokenizer, directory)
    return directory


def run(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return gptcli("generate", *arguments, "--device", "cpu", text=text)


def test_every_setting_is_an_option_with_the_same_default() -> None:
    options = inspect.signature(generate).parameters
    for name, value in GenerationConfig().model_dump().items():
        assert name in options, f"--{name} is missing"
        default = options[name].default
        assert (default or type(value)()) == value if name in ("stop", "logit_bias") else default == value


def test_json_is_one_object_with_the_documented_keys(model_directory: Path) -> None:
    done = run(model_directory, "Once", "--num-samples", "2", "--seed", "5", "--max-new-tokens", "7", "--json")
    report = json.loads(done.stdout)
    assert set(report) == {"prompt", "completions", "tokens_per_second"}
    assert report["prompt"] == "Once"
    assert [completion["seed"] for completion in report["completions"]] == [5, 6]
    for completion in report["completions"]:
        assert set(completion) == {"text", "tokens", "logprobs", "finish_reason", "seed"}
        assert len(completion["logprobs"]) == len(completion["tokens"]) <= 7


def test_options_of_conversations_and_of_texts_are_not_mixed(model_directory: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')
    for arguments, message in (
        (["Hi", "--system", "Be short."], "--system has no effect on a text"),
        (["Hi", "--chat", "--document-start"], "--document-start has no effect on --chat"),
        (["--chat"], "--chat needs a message to answer"),
        (["--chat", "Hi", "--prompt-file", str(rows)], "a prompt has no meaning beside the conversations of"),
        (["--chat", "--prompt-file", str(rows)], "has no chat template, so it reads no conversations; fine-tune it"),
    ):
        done = run(model_directory, *arguments)
        assert done.returncode == 2 and message in done.stderr and not done.stdout


def test_stdout_has_the_text_alone_of_every_prompt(model_directory: Path) -> None:
    """Past the context, from stdin; the same texts as in JSON."""
    options = ("--prompt-file", "-", "--max-new-tokens", "80", "--temperature", "0.5", "--top-k", "20")
    plain, as_json = (run(model_directory, *options, *extra, text="One\nTwo words\n") for extra in ((), ("--json",)))
    results = json.loads(as_json.stdout)["results"]
    assert [result["prompt"] for result in results] == ["One", "Two words"]
    assert plain.stdout == "---\n".join(result["completions"][0]["text"] + "\n" for result in results)
    assert "prompt 2 of 2" in plain.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "-1"), "temperature: input should be greater than or equal to 0"),
        (("--temperature", "nan"), "temperature"),
        (("--top-p", "0"), "top_p: input should be greater than 0"),
        (("--top-p", "1.5"), "top_p"),
        (("--min-p", "2"), "min_p"),
        (("--top-k", "-3"), "top_k"),
        (("--num-samples", "0"), "num_samples"),
        (("--max-new-tokens", "0"), "max_new_tokens"),
        (("--stop", ""), "stop"),
        (("--presence-penalty", "3"), "presence_penalty"),
        (("--frequency-penalty", "nan"), "frequency_penalty"),
        (("--logit-bias", "5"), "'5' is not an id and a number; write ID=VALUE"),
        (("--logit-bias", "5=101"), "logit_bias"),
        (("--logprobs", "3"), "--logprobs has no effect on plain text; add --json"),
        (("--seed", "-1"), "seed"),
        (("--prompt-file", "missing.txt"), "both"),
        (("--repetition-penalty", "1e-38"), "repetition_penalty"),
        (("--repetition-penalty", "inf"), "repetition_penalty"),
    ],
)
def test_wrong_values_are_one_line_before_the_model_is_looked_for(options: tuple[str, str], message: str) -> None:
    done = run("no-such-model", "prompt", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("gptcli: ") and message in done.stderr


def test_a_form_is_enforced_and_a_text_that_was_cut_is_called_so(model_directory: Path) -> None:
    options = ("--regex", "[0-9]{3}-[a-c]{2}", "--temperature", "1.5", "--json", "--logprobs", "2")
    whole, cut = (run(model_directory, "Call ", *options, "--max-new-tokens", count) for count in ("20", "4"))
    (completion,) = json.loads(whole.stdout)["completions"]
    assert re.fullmatch("[0-9]{3}-[a-c]{2}", completion["text"]) and completion["finish_reason"] == "stop"
    assert [len(top) for top in completion["top_logprobs"]] == [2] * 6 and "cut" not in whole.stderr
    (completion,) = json.loads(cut.stdout)["completions"]
    assert len(completion["text"]) == 4 and completion["finish_reason"] == "length"
    assert "1 text cut before the end, so not valid by --regex; raise --max-new-tokens" in cut.stderr


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "Once")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert done.stderr.startswith("gptcli: ")


def test_interrupt_keeps_what_was_printed_and_leaves_no_traceback(model_directory: Path) -> None:
    options = ("--max-new-tokens", "1000000000", "--temperature", "0", "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "gptcli", "generate", model_directory, "Once", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit "ignore"
    )
    try:
        assert process.stdout is not None
        first = process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        rest, talk = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert len(first) == 20 and rest.endswith(b"\n")
    assert b"Traceback" not in talk


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_quantized_and_compiled_write_one_text(model_directory: Path) -> None:
    """8-bit products are exact sums of integers, so compiling them changes rounding only."""
    texts = []
    for options in (["--quantize", "int8"], ["--quantize", "int8", "--compile"]):
        done = run(model_directory, "Once", "--max-new-tokens", "20", "--num-samples", "2", *options)
        texts.append(done.stdout)
        assert done.returncode == 0 and "on cpu in int8" in done.stderr
    assert texts[0] == texts[1]
    assert "int8, compiled" in done.stderr
