"""A tokenizer that loses text: every figure by byte says so or is withheld, and the command to type next works."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from command import gptcli
from data_files import write_rows
from gptcli.train.run import TrainRequest, train

SETTINGS = (
    "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16", "train.max_steps=4",
    "train.tokens_per_step=64", "train.batch_size=2", "optim.name=adamw", "optim.lr=0.03", "schedule.warmup_steps=1",
    "device=cpu", "train.sample_every_steps=100",
)  # fmt: skip


def typed(*words: str) -> tuple[str, str]:
    """What a successful command prints on stdout and on stderr."""
    done = gptcli(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def trained(folder: Path, *, last: str) -> dict:
    """Of 80 short documents; `last` is added to those that are validated on. The tokenizer is one of characters."""
    texts = {"train": [f"It's line {n} of a cold day.\n" for n in range(80)]}
    texts["val"] = [f"It's line {n} of a day of cold.\n" for n in range(20)] + [last]
    for name, part in texts.items():
        write_rows(folder / f"{name}.jsonl", part)
    assignments = (*SETTINGS, f"data.val={folder / 'val.jsonl'}", "data.tokenizer=char")
    return train(TrainRequest((str(folder / "train.jsonl"),), assignments=assignments, out=folder / "my run"))


def test_what_is_lost_is_said_from_the_first_screen_to_eval(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    summary = trained(tmp_path, last="\N{SNOWMAN}" * 30)
    said = capsys.readouterr().err
    lost = summary["val_lost_text"]
    assert lost["lost_bytes"] == 90 and lost["measured_bytes"] == lost["text_bytes"]
    sentence = f"the tokenizer loses {100 * lost['share']:.2g} % of the validation text (90 bytes)"
    assert said.count(sentence) == 2  # before the training and after it
    assert summary["val_bits_per_byte"] is None and sentence in summary["val_bits_per_byte_withheld"]
    assert json.loads((tmp_path / "my run" / "data.json").read_text())["lost_text"]["val"] == lost

    (tmp_path / "new.txt").write_text("It's a day \N{SNOWMAN}.\n" * 3)
    for text, share in (([], lost["share"]), ([str(tmp_path / "new.txt")], 3 / 16)):
        out, err = typed("eval", str(tmp_path / "my run"), *text, "--json", "--device", "cpu")
        found = json.loads(out)
        assert found["lost_text"]["share"] == pytest.approx(share)
        assert [found[name] for name in ("bits_per_byte", "byte_perplexity", "word_perplexity")] == [None] * 3
        assert found["files"][0]["bits_per_byte"] is None and found["loss"] > 0
        assert "cannot be compared" in found["bits_per_byte_withheld"] and "the tokenizer loses" in err
    out, _ = typed("eval", str(tmp_path / "my run"), "--device", "cpu")
    assert "bits per byte    not comparable" in out and "WARNING          the tokenizer loses" in out


def test_the_command_that_is_printed_at_the_end_works(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    summary = trained(tmp_path, last="It's cold.\n")
    assert summary["val_bits_per_byte"] > 0 and summary["val_bits_per_byte_withheld"] is None
    said = capsys.readouterr().err
    assert "the tokenizer loses" not in said
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  gptcli ")]
    assert [words[1] for words in commands] == ["generate", "chat", "eval"]
    assert commands[0][3].startswith("It's line")
    out, _ = typed(*commands[0][1:], "--max-new-tokens", "5", "--device", "cpu")
    assert out
