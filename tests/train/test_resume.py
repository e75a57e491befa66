"""What may change when a run goes on, and that everything else is refused in one line with a command that works."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from finished_runs import SETTINGS
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.cli.app import app
from gptcli.config import parse_assignment, read_toml, validate
from gptcli.config.differences import Difference, differences
from gptcli.config.load import leaves_of
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, ConfigError, DataError, GptcliError, UsageError
from gptcli.evaluate.requests import TextsRequest, evaluate_texts
from gptcli.session import ModelRequest
from gptcli.tokenizer.tokenizer import load_tokenizer
from gptcli.train.config import RunConfig
from gptcli.train.request import TrainRequest
from gptcli.train.resume import MAY_CHANGE, assignment, effect_of, settings_fingerprint
from gptcli.train.run import train


def resume(run: Path, *assignments: str, **more: Any) -> dict[str, Any]:
    return train(TrainRequest(out=run, resume=True, assignments=assignments, **more))


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "writer.lock"}


def typed(error: GptcliError) -> list[str]:
    """The words of the command that a message ends with."""
    command = re.search(r"gptcli (train .*)$", str(error))
    assert command, error
    return shlex.split(command[1])


REFUSED = (
    "model.n_layer=2", "model.n_embd=64", "model.mlp=gelu", "model.rope_theta=500.0", "model.norm=layernorm",
    "model.window_pattern=[8]", "model.norm_eps=0.001", "model.context_length=32", "model.vocab_size=64",
    "train.seq_len=8", "train.tokens_per_step=128", "train.eval_tokens=64", "train.grad_clip=0.5", "seed=3",
    "data.val_fraction=0.3", "data.split=tail", "data.tokenizer.name=byte", "data.pack=document", "optim.name=sgd",
    "data.mix=[8]", "optim.weight_decay=0.5", "schedule.name=cosine",
)  # fmt: skip


@pytest.mark.parametrize("setting", REFUSED)
def test_another_training_is_refused_by_key_and_value_and_changes_nothing(run: Path, setting: str) -> None:
    key, _, value = setting.partition("=")
    before = files_of(run)
    with pytest.raises(ConfigError) as caught:
        resume(run, setting)
    message = str(caught.value)
    assert re.search(rf"{re.escape(key)} was .+ and is [\"]?{re.escape(value[:4])}", message), message
    assert "--set" in message and "--init-from" in message and len(message.splitlines()) == 1
    assert files_of(run) == before


@pytest.mark.parametrize("setting", ["model.rope_theta = 500.0", "seed = 3", "tokens_per_step = 128", "norm_eps = 0.5"])
def test_an_edited_run_toml_is_compared_with_the_checkpoint(run: Path, setting: str) -> None:
    name = setting.partition(" =")[0].rpartition(".")[2]
    path = run / "run.toml"
    path.write_text(re.sub(rf"^{name} = .*$", f"{name} = {setting.partition('= ')[2]}", path.read_text(), flags=re.M))
    with pytest.raises(ConfigError, match=rf"{name} was .* and is .*run\.toml"):
        resume(run)


def test_a_config_file_with_other_settings_is_refused_and_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[model]\nn_layer = 3\n")
    with pytest.raises(ConfigError, match=r"n_layer was 1 and is 3 \(.*other\.toml\)"):
        train(TrainRequest(out=run, resume=True, config_files=(str(tmp_path / "other.toml"),)))


@pytest.mark.parametrize("settings", [("model.n_layer=2",), ("data.val_fraction=0.3", "train.tokens_per_step=48")])
def test_the_command_that_a_refusal_prints_works_when_it_is_typed(run: Path, settings: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        resume(run, *settings)
    short = ["--set", "train.max_steps=2", "--set", "train.eval_tokens=64", "--out", str(run.parent / "new")]
    done = CliRunner().invoke(app, [*typed(caught.value), *short], catch_exceptions=False)
    assert done.exit_code == 0
    made = read_toml(run.parent / "new" / "run.toml").values
    assert made["train"]["init_from"] == str(run) and made["model"]["n_layer"] == 1
    if "train.tokens_per_step=48" in settings:
        assert made["train"]["tokens_per_step"] == 48 and made["data"]["val_fraction"] == 0.3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("train.max_steps=8",), r"train\.max_steps was 6 and is 8 \(after step 6: the learning rate follows"),
        (("optim.lr=0.001", "train.max_steps=7"), r"optim\.lr was .* and is 0\.001 \(after step 6: from here on\)"),
        (("train.keep_last=3", "train.eval_every_steps=2"), r"train\.eval_every_steps was 3 and is 2.*keep_last was 2"),
        (("model.dropout=0.1",), r"dropout was .* and is 0\.1 \(after step 6: .*not, bit for bit"),
        (("train.precision=fp32", "parallel.timeout_seconds=60.0"), r"precision .* is \"fp32\".*not, bit for bit"),
    ],
)
def test_what_may_change_is_said_and_accepted(
    run: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], said: str
) -> None:
    summary = resume(run, *settings)
    assert re.search(rf"^changed .*{said}", capsys.readouterr().err, re.M)
    made = validate(RunConfig, read_toml(run / "run.toml"))
    assert summary["steps"] == made.train.max_steps
    for key, _, value in (setting.partition("=") for setting in settings):
        assert dict(leaves_of(made.model_dump(mode="json")))[key] == (float(value) if value[0].isdigit() else value)


def test_another_number_of_threads_is_said(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    resume(run)
    said = capsys.readouterr().err
    assert f"threads was {threads} and is {threads + 1} (after step 6: from here on the weights" in said


def test_fewer_steps_than_were_made_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"has made 6 steps, more than train\.max_steps = 5"):
        resume(run, "train.max_steps=5")


def test_the_estimate_counts_the_steps_that_are_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume(run, "train.max_steps=8", dry_run=True)
    assert "for the 2 steps that are left" in capsys.readouterr().err


def test_a_run_may_be_named_in_place_of_a_corpus(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert train(TrainRequest(corpus=("my run",), resume=True))["steps"] == 6
    with pytest.raises(UsageError) as caught:
        train(TrainRequest(corpus=("my run", "book.txt"), resume=True))
    assert typed(caught.value) == ["train", "book.txt", "--resume", "--out", "my run"]


def test_a_text_that_lies_elsewhere_may_be_named_anew(folder: Path, run: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "my book.txt", tmp_path / "moved.txt")
    path = run / "run.toml"
    path.write_text(path.read_text().replace(str(folder / "my book.txt"), "gone/my book.txt"))
    with pytest.raises(DataError, match=r"gone/my book\.txt, which is not there.*name it: gptcli train PATH"):
        resume(run)
    assert resume(run, corpus=(str(tmp_path / "moved.txt"),))["steps"] == 6
    assert read_toml(path).values["data"]["corpus"] == [str(tmp_path / "moved.txt")]


def test_another_text_is_refused_and_the_command_on_it_works(folder: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text((folder / "my book.txt").read_text().replace("owl", "cow"))
    before = files_of(run)
    with pytest.raises(CheckpointError, match=r"is not the one that .* was trained on") as caught:
        resume(run, corpus=(str(tmp_path / "other.txt"),))
    assert files_of(run) == before
    command = [*typed(caught.value), "--dry-run"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0


def test_another_text_to_validate_on_is_refused(folder: Path, run: Path, tmp_path: Path) -> None:
    """By its key where the split becomes a file, by its text where the file is another one."""
    with pytest.raises(ConfigError, match=r"data\.val was None and is"):
        resume(run, f"data.val='{folder / 'my book.txt'}'")
    held_out, corpus = tmp_path / "val.txt", str(folder / "my book.txt")
    held_out.write_text("the cat counts lines, and the dog counts owls.\n" * 9)
    own = tmp_path / "own"
    train(TrainRequest((corpus,), (), (*SETTINGS, f"data.val='{held_out}'"), out=own))
    held_out.write_text("the owl counts cats, and the line counts dogs.\n" * 9)
    with pytest.raises(CheckpointError, match=r"the validation text of .*val\.txt is not the one"):
        resume(own)


def test_final_weights_without_a_checkpoint_are_not_trained_over(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"holds the final weights but no checkpoint.*--init-from"):
        resume(run)


def test_a_run_without_a_checkpoint_measures_on_the_text_that_it_is_trained_on(run: Path, tmp_path: Path) -> None:
    """Killed before its first checkpoint, it begins anew, also with another text and other settings."""
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").unlink()
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{n} bottles of {n * 7} beers on the wall.\n" for n in range(300)))
    resume(run, "model.n_layer=2", corpus=(str(other),))
    assert "bottles" in validation_text(run)
    assert evaluate_texts(TextsRequest(ModelRequest(str(run), device="cpu"))).evaluation.totals.tokens > 0
    assert RunDirectory(run).checkpoints()[-1].step == 6


def validation_text(run: Path) -> str:
    """The validation text that a run keeps."""
    shards, tokenizer = TokenShards.open(run / "val"), load_tokenizer(run)
    return "".join(tokenizer.decode(ids) for ids, _ in shards.iter_documents())


def test_every_key_that_may_change_exists() -> None:
    schema = RunConfig.model_json_schema()
    names = set(schema["properties"]) | {
        f"{section}.{key}"
        for section, reference in schema["properties"].items()
        for entry in [reference, *reference.get("oneOf", ())]
        for target in [entry.get("$ref"), *[inner.get("$ref") for inner in entry.get("allOf", ())]]
        if target
        for key in schema["$defs"][target.rpartition("/")[2]]["properties"]
    }
    assert set(MAY_CHANGE) <= names


def test_the_docs_list_every_key_that_may_change(root: Path) -> None:
    page = (root / "docs" / "reliability.md").read_text()
    section = page.partition("## What a resume may change")[2].partition("\n## ")[0]
    for key in MAY_CHANGE:
        assert f"`{key}`" in section, key


def test_the_fingerprint_of_settings_changes_with_what_may_not_change_alone() -> None:
    base = RunConfig().model_dump(mode="json")
    for key, _ in leaves_of(base):
        changed = altered(base, key)
        is_same = settings_fingerprint(changed) == settings_fingerprint(base)
        assert is_same == (effect_of(Difference(key, "", "")) is not None), key
        assert [one.key for one in differences(base, changed)] in ([key], [key.rpartition(".")[0] + ".name"])


def altered(values: dict[str, Any], key: str) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    other = [{"weight": 2.0}] if key == "mix" else "other"
    return {**values, first: altered(values[first], rest) if rest else other}


@pytest.mark.parametrize(
    ("value", "text"),
    [("sgd", "k=sgd"), ("true", 'k="true"'), ("a b", "k=a b"), (0.5, "k=0.5"), (True, "k=true"), ([1, 2], "k=[1, 2]"),
     ([{"corpus": ["a"], "weight": 1.0}], 'k=[{corpus=["a"], weight=1.0}]')],
)  # fmt: skip
def test_a_value_is_written_as_set_reads_it(value: object, text: str) -> None:
    assert assignment("k", value) == text
    assert parse_assignment(text).values == {"k": value}
