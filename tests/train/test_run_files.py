"""Every file of a finished run is listed, checked before use, and can be accepted where it was changed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finished_runs import SETTINGS
from gptcli.checkpoint.report import verify_files
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.cli.app import app
from gptcli.config import read_toml
from gptcli.errors import CheckpointError, GptcliError, TokenizerError
from gptcli.interop.load import load_model
from gptcli.manifest import MANIFEST_NAME, read_manifest
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.request import TrainRequest
from gptcli.train.run import train

TOP = (
    "run.toml", "data.json", "summary.json", "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


def typed(*words: object) -> str:
    """Type a command; what it prints on stdout.

    Raises:
        GptcliError: as the command.
    """
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_finished_run_lists_every_file_but_those_with_manifests_of_their_own(run: Path) -> None:
    listed = read_manifest(run)
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    apart = {name for name in found if name.startswith("checkpoints/")} | {"writer.lock", MANIFEST_NAME}
    assert found - apart == {*listed.files, *listed.logs} and {*TOP, "metrics.jsonl"} < found
    verify_files(run).raise_if_damaged()


def test_a_run_that_was_passed_on_without_its_checkpoints_verifies_too(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert "every file is whole" in typed("checkpoint", "verify", run)
    flip(run / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(run)


USES = {
    "generate": ("tokenizer.json", "tokenizer_config.json"),
    "eval": ("tokenizer.json", "val/tokens-00000.bin", "val/document-bytes.bin", "val/index.json"),
    "export": ("data.json", "summary.json", "tokenizer.json", "val/document-starts.bin"),
    "tokenizer": ("tokenizer.json",),
    "replay": ("run.toml",),
}


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, names in USES.items() for name in names])
def test_every_verb_checks_what_it_uses_and_names_the_way_to_accept_a_change(run: Path, verb: str, name: str) -> None:
    flip(run / name)
    rest = {
        "generate": ["generate", run, "line"],
        "eval": ["eval", run],
        "export": ["export", run, "--to", "hf", "--out", run.parent / "out"],
        "tokenizer": ["tokenizer", "encode", run, "line"],
        "replay": ["replay", run, 3],
    }[verb]
    with pytest.raises(CheckpointError) as caught:
        typed(*rest)
    message = str(caught.value)
    assert name in message and len(message.splitlines()) == 1
    command = re.search(r"gptcli (checkpoint verify .*)$", message)
    assert command, message
    typed(*shlex.split(command[1]))
    verify_files(run).raise_if_damaged()


def test_a_chat_template_that_the_user_adds_is_accepted_by_its_file_alone(run: Path) -> None:
    settings = run / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "{{ messages }}"}))
    flip(run / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        typed("checkpoint", "verify", run, "--accept", "tokenizer_config.json")
    assert load_model(run).tokenizer.settings["chat_template"] == "{{ messages }}"
    with pytest.raises(GptcliError, match=r"notes\.txt is no file of"):
        typed("checkpoint", "verify", run, "--accept", "notes.txt")


def test_a_damaged_manifest_is_no_dead_end(run: Path) -> None:
    flip(run / MANIFEST_NAME)
    with pytest.raises(CheckpointError, match=rf"--accept {re.escape(MANIFEST_NAME)}"):
        typed("generate", run, "line")
    typed("checkpoint", "verify", run, "--accept", MANIFEST_NAME)
    assert {*TOP, "val/index.json"} <= set(read_manifest(run).files)
    flip(run / MANIFEST_NAME)
    train(TrainRequest(out=run, resume=True))
    verify_files(run).raise_if_damaged()


def test_a_resume_makes_a_damaged_tokenizer_again_and_names_a_damaged_log(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = (run / "tokenizer.json").read_bytes()
    flip(run / "tokenizer.json")
    metrics = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(metrics.replace('"step": 2', '"step": 1', 1))
    train(TrainRequest(out=run, resume=True))
    said = capsys.readouterr().err
    assert "tokenizer.json is damaged" in said and "metrics.jsonl is damaged" in said
    assert (run / "tokenizer.json").read_bytes() == tokenizer


def test_the_model_is_the_one_that_was_trained_whatever_run_toml_says_now(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = typed("generate", run, "line", "--max-new-tokens", 8)
    path = run / "run.toml"
    path.write_text(path.read_text().replace("rope_theta = 10000.0", "rope_theta = 10.0"))
    assert typed("generate", run, "line", "--max-new-tokens", 8) == before
    assert load_model(run).model.config.rope_theta == 10000.0
    assert "was changed after the training" in capsys.readouterr().err


def test_an_edited_length_is_said_when_the_run_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "run.toml"
    path.write_text(path.read_text().replace("max_steps = 6", "max_steps = 7"))
    assert train(TrainRequest(out=run, resume=True))["steps"] == 7
    assert "train.max_steps was 6 and is 7 (after step 6" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_taken_as_it_is_with_a_hint(run: Path) -> None:
    (run / MANIFEST_NAME).unlink()
    path = run / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    assert load_model(run).run is not None
    assert f"--accept {MANIFEST_NAME}" in typed("checkpoint", "verify", run)
    train(TrainRequest(out=run, resume=True))
    assert set(TOP) < set(read_manifest(run).files)


def test_an_imported_model_has_a_manifest(run: Path, tmp_path: Path) -> None:
    typed("export", run, "--to", "hf", "--out", tmp_path / "exported")
    assert not (tmp_path / "exported" / MANIFEST_NAME).exists()
    typed("import", tmp_path / "exported", "--out", tmp_path / "imported")
    assert "every file is whole" in typed("checkpoint", "verify", tmp_path / "imported")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        flip(tmp_path / "imported" / name)
        with pytest.raises(CheckpointError, match=name):
            load_model(tmp_path / "imported")
        flip(tmp_path / "imported" / name)
    assert load_model(tmp_path / "imported").run is None


def test_the_copy_of_the_first_model_is_checked_before_it_is_used(folder: Path, run: Path, tmp_path: Path) -> None:
    corpus, steps = str(folder / "my book.txt"), ("train.max_steps=2", "train.eval_tokens=64", "device=cpu")
    started = tmp_path / "started"
    train(TrainRequest((corpus,), (), steps, out=started, init_from=str(run)))
    assert "init" in typed("checkpoint", "verify", started)
    flip(started / "init" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"init/model\.safetensors"):
        verify_files(started).raise_if_damaged()
    with pytest.raises(CheckpointError, match=r"init/model\.safetensors"):
        train(TrainRequest(out=started, resume=True))


def test_a_kept_validation_part_is_a_whole_copy(folder: Path, tmp_path: Path) -> None:
    """Of a cache that is damaged no copy is made: what is damaged is made again before."""
    cache = tmp_path / "cache"
    corpus = str(folder / "my book.txt")
    for name in ("one", "two"):
        train(TrainRequest((corpus,), (), SETTINGS, out=tmp_path / name, cache_dir=cache))
        (tokens,) = cache.glob("tokens/*/val/tokens-00000.bin")
        flip(tokens)
    kept = [tmp_path / name / "val" / tokens.name for name in ("one", "two")]
    assert kept[0].read_bytes() == kept[1].read_bytes() != tokens.read_bytes()
    assert read_toml(RunDirectory(tmp_path / "one").config_path).values["train"]["max_steps"] == 6


def test_a_tokenizer_that_reads_back_as_another_one_is_refused_before_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Tokenizer.save

    def save_another(tokenizer: Tokenizer, directory: Path) -> None:
        save(tokenizer, directory)
        path = directory / "tokenizer.json"
        spec = json.loads(path.read_text())
        one, other = list(spec["model"]["vocab"])[2:4]
        vocab = spec["model"]["vocab"]
        vocab[one], vocab[other] = vocab[other], vocab[one]
        path.write_text(json.dumps(spec))

    monkeypatch.setattr(Tokenizer, "save", save_another)
    with pytest.raises(TokenizerError, match="is another one when it is read again"):
        train(TrainRequest((str(folder / "my book.txt"),), (), SETTINGS, out=tmp_path / "run", cache_dir=tmp_path))
    assert not RunDirectory(tmp_path / "run").checkpoints()


def test_verifying_needs_no_torch(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gptcli.checkpoint.report import verify_files; "
        f"verify_files(Path({str(run)!r})).raise_if_damaged(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
