"""The verb itself: what it reads, what goes to stdout and stderr, exit codes."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import command

TRAIN = "The lamp was lit. Ada read her letter twice and said nothing.\n"
TEXTS = ["A short first document.", "Then a second one; it is longer, but not by much.", "Third."]


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it: two checkpoints of untrained weights, the step 10 one marked as the better."""
    from gptcli.checkpoint.run_directory import RunDirectory
    from gptcli.checkpoint.save import save_checkpoint
    from gptcli.data.shards import ShardWriter
    from gptcli.models.config import ModelConfig
    from gptcli.models.gpt import build_model
    from gptcli.tokenizer.config import CharTokenizerConfig
    from gptcli.tokenizer.train import build_tokenizer

    tokenizer = build_tokenizer(CharTokenizerConfig(), lambda: iter([TRAIN, *TEXTS]))
    run = RunDirectory.create(tmp_path_factory.mktemp("runs") / "ada")
    shape = {"context_length": 32, "n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": tokenizer.vocab_size}
    tokenizer.save(run.path)
    for step, val_loss in ((10, 2.0), (20, 3.0)):
        model = build_model(ModelConfig.model_validate(shape), seed=step)
        save_checkpoint(run, step, {"model": model.state_dict()}, {"val_loss": val_loss})
    with ShardWriter(run.path / "val", tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        for text in TEXTS:
            writer.add(tokenizer.encode_batch([text])[0], len(text.encode()), starts=True)
    lines = ["[model]", *(f"{key} = {value}" for key, value in shape.items())]
    run.config_path.write_text("\n".join(["[data]", 'document_separator = "\\n---\\n"', *lines]) + "\n")
    return run.path


@pytest.fixture
def gptcli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`gptcli eval ARGUMENTS` on the CPU."""

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return command.gptcli("eval", *arguments, "--device", "cpu", text=stdin)

    return run


@pytest.fixture
def measured(gptcli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., dict[str, Any]]:
    def measure(*arguments: str | Path, stdin: str = "") -> dict[str, Any]:
        outcome = gptcli(*arguments, "--json", stdin=stdin)
        assert outcome.returncode == 0, outcome.stderr
        return json.loads(outcome.stdout)

    return measure


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """The run's validation texts as a folder: two in one file, parted by the run's separator, one in another."""
    (tmp_path / "a.txt").write_text("\n---\n".join(TEXTS[:2]))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": TEXTS[2], "other": "a"}) + "\n")
    return tmp_path


def test_json_is_one_object_with_the_documented_keys(measured: Callable, run_directory: Path) -> None:
    found = measured(run_directory)
    assert set(found) >= {
        "loss", "perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity", "tokens", "bytes", "words",
        "loss_stderr", "context", "stride", "files",
    }  # fmt: skip
    assert (found["context"], found["stride"], found["documents"]) == (32, 16, 3)
    assert found["tokens"] == found["bytes"] == sum(map(len, TEXTS))
    assert found["words"] == sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_texts_score_as_the_validation_split_that_holds_them(
    measured: Callable, run_directory: Path, texts: Path
) -> None:
    """The folder is read with the run's own document separator."""
    split, read = measured(run_directory), measured(run_directory, texts)
    for key in ("loss", "tokens", "bytes", "words", "documents", "loss_stderr"):
        assert read[key] == pytest.approx(split[key])
    assert [Path(file["file"]).name for file in read["files"]] == ["a.txt", "b.jsonl"]
    assert [file["documents"] for file in read["files"]] == [2, 1]


def test_standard_input_and_separator_and_text_field_are_taken(
    measured: Callable, run_directory: Path, texts: Path
) -> None:
    assert measured(run_directory, "-", stdin="one.two.three")["documents"] == 1
    assert measured(run_directory, "-", "--set", "data.document_separator=.", stdin="one.two.three")["documents"] == 3
    assert measured(run_directory, texts / "b.jsonl", "--set", "data.text_field=other")["tokens"] == 1


def test_options_reach_the_measurement(measured: Callable, run_directory: Path) -> None:
    found = measured(run_directory, "--context", "8", "--stride", "3", "--batch-size", "2", "--worst", "2")
    assert (found["context"], found["stride"], len(found["worst"])) == (8, 3, 2)
    assert found["tokens"] == sum(map(len, TEXTS))
    assert found["loss"] != measured(run_directory)["loss"]


def test_best_checkpoint_is_measured_unless_another_is_asked_for(measured: Callable, run_directory: Path) -> None:
    best, last = measured(run_directory), measured(run_directory, "--checkpoint", "last")
    assert "step 10" in best["model"]
    assert "step 20" in last["model"]
    assert best["loss"] == measured(run_directory, "--checkpoint", "10")["loss"] != last["loss"]


def test_unknown_characters_are_warned_of(
    measured: Callable, gptcli: Callable, run_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "greek.txt").write_text("Ada read α and β.")
    assert measured(run_directory, tmp_path / "greek.txt")["unknown_characters"] == 2
    outcome = gptcli(run_directory, tmp_path / "greek.txt")
    assert "warning: the tokenizer lacks 2 characters" in outcome.stderr
    assert "WARNING          the tokenizer lacks 2 characters" in outcome.stdout


def test_table_goes_to_stdout_and_talk_to_stderr(gptcli: Callable, run_directory: Path) -> None:
    outcome = gptcli(run_directory, "--worst", "1")
    assert outcome.returncode == 0
    for stated in ("perplexity", "bits per byte", "context 32", "stride 16", "validation split", ">>>"):
        assert stated in outcome.stdout
    assert "step 10" in outcome.stderr
    assert "bits per byte" not in outcome.stderr


def test_a_run_without_its_split_asks_for_a_text(
    gptcli: Callable, measured: Callable, run_directory: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_directory, copy)
    shutil.rmtree(copy / "val")
    outcome = gptcli(copy)
    assert outcome.returncode == 4
    assert "no copy of its validation split" in outcome.stderr
    assert measured(copy, "-", stdin="Ada")["tokens"] == 3


def test_a_split_of_another_tokenizer_is_refused(gptcli: Callable, run_directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_directory, copy)
    index = json.loads((copy / "val" / "index.json").read_text())
    (copy / "val" / "index.json").write_text(json.dumps(index | {"tokenizer_fingerprint": "another"}))
    outcome = gptcli(copy)
    assert outcome.returncode == 4
    assert "another tokenizer" in outcome.stderr


def test_a_hugging_face_directory_is_measured_on_texts_only(
    gptcli: Callable, measured: Callable, run_directory: Path, texts: Path, tmp_path: Path
) -> None:
    from gptcli.interop.huggingface import write_huggingface
    from gptcli.interop.load import load_model

    loaded = load_model(run_directory)
    write_huggingface(loaded.model, loaded.tokenizer, tmp_path / "model")
    found = measured(tmp_path / "model", texts / "b.jsonl")
    assert found["loss"] == pytest.approx(measured(run_directory, texts / "b.jsonl")["loss"], abs=1e-6)
    outcome = gptcli(tmp_path / "model")
    assert outcome.returncode == 2
    assert "name a text" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "named"),
    [
        (["--context", "33"], "", 2, "33"),
        (["--context", "0"], "", 2, "--context"),
        (["--stride", "20", "--context", "10"], "", 2, "stride of 20"),
        (["--stride", "0"], "", 2, "--stride"),
        (["--batch-size", "0"], "", 2, "batch"),
        (["--worst", "-1"], "", 2, "worst"),
        (["--checkpoint", "15"], "", 4, "15"),
        (["--checkpoint", "newest"], "", 2, "newest"),
        (["-"], "", 3, ""),
        (["-"], " \n", 3, ""),
        (["absent.txt"], "", 3, "absent.txt"),
        (["-", "--set", "data.document_separator="], "x", 2, "document_separator"),
        (
            ["-", "--set", "data.val_fraction=0.5"],
            "x",
            2,
            "--set data.val_fraction does not apply to a command",
        ),
        (["-", "--set", "model.n_layer=1"], "x", 2, "use one of data.format"),
        (["-", "--set", "data.text_feild=x"], "x", 2, "data.text_field"),
    ],
)
def test_mistakes_are_one_line(
    gptcli: Callable, run_directory: Path, arguments: list[str], stdin: str, code: int, named: str
) -> None:
    outcome = gptcli(run_directory, *arguments, stdin=stdin)
    errors = [line for line in outcome.stderr.splitlines() if "ada, step" not in line]
    assert (outcome.returncode, outcome.stdout, len(errors)) == (code, "", 1), outcome.stderr
    assert errors[0].startswith("gptcli: ")
    assert named in errors[0]


def test_what_is_no_model_is_said(gptcli: Callable, tmp_path: Path) -> None:
    outcome = gptcli(tmp_path)
    assert outcome.returncode == 4
    assert len(outcome.stderr.splitlines()) == 1


def test_quantized_scores_differ_a_little_and_say_what_they_are_of(
    run_directory: Path, gptcli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    plain, quantized = gptcli(run_directory, "--json"), gptcli(run_directory, "--json", "--quantize", "int8")
    assert plain.returncode == quantized.returncode == 0
    losses = [json.loads(outcome.stdout)["loss"] for outcome in (plain, quantized)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.01)
    assert "on cpu in int8" in quantized.stderr


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    """Four rows, the letter that follows `Ad`."""
    rows = [{"prompt": f"{name}. Ad", "choices": ["a", "z"], "answer": "a"} for name in ("one", "two", "three", "four")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows).replace("z", "l"))
    return tmp_path / "rows.jsonl"


def test_choices_are_measured_with_examples_that_are_not_scored(
    measured: Callable, run_directory: Path, choices: Path
) -> None:
    found = measured(run_directory, "--choices", choices)
    assert (found["rows"], found["shots"], found["chance"]) == (4, 0, 0.5)
    assert found["commonest_answer"] == {"text": "a", "accuracy": 1.0}
    few = measured(run_directory, "--choices", choices, "--num-fewshot", "1")
    assert (few["rows"], few["shots"], few["cut_rows"]) == (3, 1, 0)
    apart = measured(run_directory, "--choices", choices, "--num-fewshot", "1", "--shots", choices)
    assert (apart["rows"], apart["shots"]) == (4, 1)
    assert apart["predictions"][1:] == few["predictions"]


def test_choices_are_shown_as_a_table_and_what_is_cut_is_said(
    gptcli: Callable, run_directory: Path, choices: Path
) -> None:
    outcome = gptcli(run_directory, "--choices", choices, "--num-fewshot", "3")
    assert outcome.returncode == 0
    assert "accuracy" in outcome.stdout and "calibration error" in outcome.stdout
    assert (
        "warning: the beginning of 1 row was not read, since the model's context of 32 tokens is shorter"
        in outcome.stderr
    )


@pytest.mark.parametrize(
    ("line", "arguments", "code", "named"),
    [
        ('{"prompt": "a"}', [], 3, "line 5"),
        ("nonsense", [], 3, "line 5"),
        ("", ["--num-fewshot", "5"], 2, "5"),
        ("", ["--num-fewshot", "4"], 3, "no row"),
        ("", ["--num-fewshot", "1", "--shots", "absent.jsonl"], 5, "absent.jsonl"),
        ("", ["--context", "8"], 2, "--context"),
        ("", ["--worst", "2"], 2, "--worst"),
        ("", ["--batch-size", "0"], 2, "--batch-size"),
    ],
)
def test_mistakes_with_choices_are_one_line(
    gptcli: Callable, run_directory: Path, choices: Path, line: str, arguments: list[str], code: int, named: str
) -> None:
    choices.write_text(choices.read_text() + line)
    outcome = gptcli(run_directory, "--choices", choices, *arguments)
    errors = [line for line in outcome.stderr.splitlines() if "ada, step" not in line]
    assert (outcome.returncode, outcome.stdout, len(errors)) == (code, "", 1), outcome.stderr
    assert named in errors[0]


def test_examples_without_choices_are_refused(gptcli: Callable, run_directory: Path) -> None:
    outcome = gptcli(run_directory, "--num-fewshot", "2")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "--num-fewshot has no effect on a text" in outcome.stderr
