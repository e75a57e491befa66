"""`gptcli runs`: what is listed, shown, compared and removed of runs in every state."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import gptcli
from gptcli.checkpoint.lock import is_locked
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import CheckpointError, UsageError
from gptcli.manifest import record
from gptcli.report.runs.chart import BLANK, Series, draw
from gptcli.report.runs.listing import list_runs
from gptcli.report.runs.reading import find_runs, read_record
from gptcli.report.runs.removal import plan_removal
from gptcli.report.runs.single import RunView

CONFIG = """device = "cpu"
[data]
corpus = ["texts/book.txt"]
[model]
vocab_size = 256
n_layer = 2
n_embd = 64
n_head = 2
[train]
max_steps = 100
"""
DATA = {"train": {"bytes": 2000}, "train_tokens": 1000}
SUMMARY = {
    "parameters": 1234, "steps": 100, "tokens": 4000, "val_loss": 2.0, "val_loss_interval": [1.9, 2.1],
    "val_bits_per_byte": 1.5, "train_seconds": 75.0, "verdict": "flat", "verdict_text": "The validation loss was flat.",
}  # fmt: skip


def line(step: int, val_loss: float | None = None) -> dict[str, Any]:
    return {
        "step": step, "tokens": 40 * step, "time": 1_800_000_000 + step, "elapsed_seconds": float(step),
        "train_loss": 5.0 - step / 50, "val_loss": val_loss,
    }  # fmt: skip


def make_run(path: Path, *, steps: int = 100, is_finished: bool = True, config: str = CONFIG) -> Path:
    path.mkdir(parents=True)
    (path / "run.toml").write_text(config)
    (path / "data.json").write_text(json.dumps(DATA))
    lines = [line(step, 2.0 + 10 / step if step % 25 == 0 else None) for step in range(1, steps + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    samples = [{"step": step, "text": f"text  of\nstep {step}"} for step in range(10, steps + 1, 10)]
    (path / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    if is_finished:
        (path / "summary.json").write_text(json.dumps(SUMMARY))
        (path / "model.safetensors").write_bytes(b"weights")
    (path / "checkpoints" / "step-00000100").mkdir(parents=True)
    (path / "checkpoints" / "step-00000100" / "model.safetensors").write_bytes(b"w" * 1000)
    logs = ("metrics.jsonl", "samples.jsonl")
    record(path, [name.name for name in path.iterdir() if name.is_file() and name.name not in logs], logs)
    return path


def test_a_finished_run_is_described_by_its_summary(tmp_path: Path) -> None:
    found = read_record(make_run(tmp_path / "book"))
    assert (found.state, found.damages, found.corpus, found.method) == ("finished", (), ("book.txt",), "train")
    assert (found.parameters, found.steps, found.epochs, found.seconds) == (1234, 100, 4.0, 75.0)
    assert found.bits_per_byte == 1.5 and found.bits_interval == pytest.approx((1.425, 1.575))
    assert found.started == 1_800_000_000 and found.ended == 1_800_000_100
    assert found.disk_bytes == sum(path.stat().st_size for path in (tmp_path / "book").rglob("*") if path.is_file())


def test_a_run_without_an_end_is_described_by_its_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "book", steps=60, is_finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "tok')
    found = read_record(run)
    assert (found.state, found.steps, found.val_loss, found.bits_per_byte) == ("stopped", 60, 2.2, None)
    assert found.parameters and found.epochs == pytest.approx(2.4)
    with RunDirectory(run).lock():
        assert read_record(run).state == "running"
        assert is_locked(run / "writer.lock")
    assert not is_locked(run / "writer.lock")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("run.toml", b"[data", "run.toml is damaged"),
        ("data.json", b'{"train": ', "data.json is damaged"),
        ("summary.json", b"[]", "summary.json is damaged"),
        ("metrics.jsonl", b'{"step": 1}\nrubbish\n', "metrics.jsonl is damaged"),
        ("model.safetensors", b"weight", "model.safetensors is damaged: 6 bytes, should be 7"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("gptcli-manifest.json", b"{", "gptcli-manifest.json is damaged"),
        ("gptcli-manifest.json", b'{"files": {"run.toml": 5}}', "gptcli-manifest.json is damaged"),
        ("run.toml", b"\xff", "run.toml is damaged"),
    ],
)
def test_damage_is_named_and_the_rest_is_shown(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    run = make_run(tmp_path / "book")
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    found = read_record(run)
    assert found.state == "damaged" and told in found.damages
    assert gptcli("runs", "show", run).returncode == 0
    listed = gptcli("runs", tmp_path)
    assert listed.returncode == 0 and f"{run}: {found.damages[0]}" in listed.stdout


def test_a_mix_is_named_by_its_corpora(tmp_path: Path) -> None:
    mix = (
        '[[data.mix]]\ncorpus = ["a/x.txt", "hf:some/set"]\nweight = 1.0\n[[data.mix]]\ncorpus = ["y"]\nweight = 2.0\n'
    )
    run = make_run(tmp_path / "mixed", config=f"{mix}[model]\nn_layer = 2\n")
    assert read_record(run).corpus == ("x.txt", "hf:some/set", "y")
    (run / "run.toml").write_text("data = 3\n")
    assert read_record(run).corpus == ()


def test_runs_are_found_in_folders_and_sorted(tmp_path: Path) -> None:
    for name in ("b", "deep/a", "c"):
        make_run(tmp_path / name)
    make_run(tmp_path / "b" / "inside")
    (tmp_path / "c" / "summary.json").write_text(json.dumps(SUMMARY | {"val_loss": 1.0}))
    make_run(tmp_path / "new", is_finished=False, steps=3)
    names = [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path])]
    assert names == ["b", "c", "deep/a", "new"]
    by_loss = [record.name for record in list_runs([tmp_path], "loss").records]
    assert by_loss[0] == "c" and by_loss[-1] == "new"
    assert [record.name for record in list_runs([tmp_path], "loss", is_reversed=True).records][-1] == "new"
    with pytest.raises(CheckpointError, match="is not a directory"):
        list(find_runs([tmp_path / "none"]))


def test_the_table_and_its_json_say_the_same(tmp_path: Path) -> None:
    make_run(tmp_path / "book")
    (row,) = json.loads(gptcli("runs", tmp_path, "--json").stdout)["runs"]
    assert (row["name"], row["state"], row["val_loss"], row["corpus"]) == ("book", "finished", 2.0, ["book.txt"])
    heading, shown = gptcli("runs", "list", tmp_path).stdout.splitlines()
    assert heading.split()[:4] == ["run", "state", "method", "corpus"]
    cells = ["finished", "train", "book.txt", "2", "kB", "1.23", "k", "100", "4", "2.00", "1.500", "75", "s", "cpu"]
    assert shown.split()[1:-2] == cells
    assert "no runs" in gptcli("runs", tmp_path / "book" / "checkpoints").stdout
    assert gptcli("runs", cwd=tmp_path).returncode == 4


def test_a_run_is_shown_with_its_curve_verdict_and_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path / "book")
    shown = gptcli("runs", "show", run).stdout
    for words in ("100, 4 epochs (train)", "2 layers of 64", "o validation loss", SUMMARY["verdict_text"]):
        assert words in shown, words
    assert [words for words in shown.splitlines() if words.startswith("step")][-1] == "step     100  text of step 100"
    found = json.loads(gptcli("runs", "show", run, "--json").stdout)
    assert [one["step"] for one in found["evaluations"]] == [25, 50, 75, 100] and len(found["samples"]) == 10
    unfinished = RunView(read_record(make_run(tmp_path / "other", is_finished=False)), 80).text()
    assert "so far" in unfinished and "the lowest validation loss is 2.1000, at step 100" in unfinished


def test_two_runs_differ_in_the_settings_that_are_listed(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    other = make_run(tmp_path / "other", config=CONFIG.replace("n_layer = 2", "n_layer = 3") + "seed = 7\n")
    found = json.loads(gptcli("runs", "diff", one, other, "--json").stdout)
    assert found["settings"] == {"model.n_layer": [2, 3], "train.seed": [None, 7]}
    assert "2 settings differ" in gptcli("runs", "diff", one, other).stdout
    assert "the settings are the same" in gptcli("runs", "diff", one, one).stdout


def test_runs_are_removed_only_when_that_is_confirmed_and_nobody_writes_them(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", is_finished=False)
    refused = gptcli("runs", "rm", one)
    assert refused.returncode == 2 and "add --yes" in refused.stderr and one.is_dir()
    assert gptcli("runs", "rm", other, "--checkpoints", "--yes").returncode == 2
    with RunDirectory(one).lock():
        held = gptcli("runs", "rm", one, "--yes")
        assert held.returncode == 2 and "is being written by" in held.stderr and (one / "run.toml").is_file()
    assert gptcli("runs", "rm", one, "--checkpoints", "--yes").returncode == 0
    assert not (one / "checkpoints").exists() and read_record(one).state == "finished"
    assert gptcli("runs", "rm", one, other, "--yes").returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert gptcli("runs", "rm", tmp_path, "--yes").returncode == 4 and tmp_path.is_dir()


def test_metrics_become_a_table_with_every_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "book")
    rows = list(csv.DictReader(io.StringIO(gptcli("runs", "export", run).stdout)))
    lines = read_record(run).lines()
    assert [float(row["train_loss"]) for row in rows] == [line["train_loss"] for line in lines]
    assert [row["val_loss"] for row in rows if row["val_loss"]] == ["2.4", "2.2", "2.1333333333333333", "2.1"]
    out = tmp_path / "book.csv"
    assert json.loads(gptcli("runs", "export", run, "--out", out, "--json").stdout)["lines"] == 100
    assert len(out.read_text().splitlines()) == 101
    assert gptcli("runs", "export", run, "--out", out).returncode == 2
    assert gptcli("runs", "export", run, "--to", "tensorboard", "--out", out).returncode == 2
    (run / "metrics.jsonl").write_text("")
    assert gptcli("runs", "export", run).returncode == 3


def test_tensorboard_gets_a_run_afterwards_and_only_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "book", steps=5)
    assert "5 lines" in gptcli("runs", "export", run, "--to", "tensorboard").stdout
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    assert [(one.step, one.value) for one in accumulator.Scalars("tokens")] == [
        (step, 40 * step) for step in range(1, 6)
    ]
    again = gptcli("runs", "export", run, "--to", "tensorboard")
    assert again.returncode == 2 and "has this run already" in again.stderr


def test_a_link_to_a_run_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(make_run(tmp_path / "run"))
    with pytest.raises(UsageError, match="is a link; name the run itself"):
        plan_removal([link], only_checkpoints=False)


def test_a_curve_has_its_points_in_their_places() -> None:
    *rows, axis, ends = draw([Series("line", [(0, 0.0), (9, 1.0)]), Series("mark", [(9, 0.0)], "o")], 5, 2)
    assert rows[0] == "1.0 │" + chr(BLANK) * 4 + chr(BLANK | 0x08)
    assert rows[1] == "0.0 │" + chr(BLANK | 0x40) + chr(BLANK) * 3 + "o"
    assert axis == "    └─────" and ends == "     0   9"
    assert draw([Series("none", [(1, float("nan"))])], 5, 2) == []
    assert len(draw([Series("one", [(3, 2.0)])], 5, 2)) == 4


@pytest.mark.slow
def test_a_thousand_runs_are_listed_without_torch(tmp_path: Path) -> None:
    for number in range(1000):
        make_run(tmp_path / f"{number}", steps=50)
    began = time.process_time()
    assert len(list_runs([tmp_path], "name").records) == 1000
    assert time.process_time() - began < 20
