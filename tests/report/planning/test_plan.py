"""`gptcli plan` as it is typed: every shipped config, layouts, what does not fit, and a real checkpoint's size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fresh import run_fresh
from gptcli.cli.app import app
from gptcli.config.shipped import shipped_configs
from gptcli.errors import UsageError
from gptcli.report.planning.run import PlanRequest, make_plan
from gptcli.report.planning.text import as_text


def plan(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["plan", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", list(shipped_configs()))
def test_every_shipped_config_has_a_plan(name: str) -> None:
    said = plan(name)
    assert said["parameters"]["total"] > said["parameters"]["without_embeddings"] > 0
    memory = said["memory_bytes"]
    assert memory["total"] <= sum(value for part, value in memory.items() if part != "total")
    assert 0 < said["product_flops_per_token"] < 1.01 * said["flops_per_token"]


def test_gpt3_comes_to_the_operations_that_its_paper_states() -> None:
    """Brown et al. 2020, Table D.1: 3.14e23 for 175B on 300 billion tokens, by 6 N D and so without attention."""
    said = plan("gpt3-175b", "--tokens", "300e9")
    assert said["flops"] == pytest.approx(3.14e23, rel=0.03)


def test_a_step_is_dealt_out_among_ranks_and_micro_batches() -> None:
    said = plan("gpt2-124m", "--gpus", "64", "--batch-size", "4", "--tokens-per-step", "1048576", "--tokens", "1e9")
    layout = said["layout"]
    assert layout["micro_batches"] * layout["batch_size"] * layout["seq_len"] * layout["gpus"] == 1_048_576
    assert said["steps"] == 954
    assert said["train_seconds"] == pytest.approx(said["flops"] / (64 * 989e12 * 0.4))


def test_time_and_cost_follow_the_devices() -> None:
    one, eight = (plan("gpt2-124m", "--gpus", str(n), "--price-per-hour", "2", "--mfu", "0.5") for n in (1, 8))
    assert one["train_seconds"] == pytest.approx(8 * eight["train_seconds"])
    assert one["cost"] == pytest.approx(2 * one["device_hours"]) == pytest.approx(eight["cost"], rel=0.01)


def test_an_adapter_has_gradients_moments_and_checkpoints_of_its_own_weights() -> None:
    full = plan("gpt2-124m")
    said = plan("gpt2-124m", "--set", "adapter.name=lora", "--set", "train.init_from=base")
    trained = said["parameters"]["trained"]
    assert full["parameters"]["trained"] == said["parameters"]["total"] > 40 * trained
    assert said["memory_bytes"]["gradients"] == 4 * trained and said["memory_bytes"]["moments"] == 8 * trained
    assert said["checkpoint_bytes"] == 12 * trained
    assert said["memory_bytes"]["total"] < 0.9 * full["memory_bytes"]["total"]


@pytest.mark.parametrize("name", ["gpt3-175b", "gpt2-1.5b", "qwen3-0.6b"])
def test_what_does_not_fit_names_options_with_which_it_does(name: str) -> None:
    arguments = [name, "--gpu", "rtx4090", "--batch-size", "4"]
    said = plan(*arguments)
    assert not said["fits"]
    options = said["verdict"].removeprefix("does not fit; with ").split(" it would")[0].split()
    again = plan(*without(arguments, options[::2]), *options)
    assert again["fits"] and again["memory_bytes"]["total"] <= again["usable_memory_bytes"]


def without(arguments: list[str], options: list[str]) -> list[str]:
    """The arguments without those options and their values."""
    dropped = {index + offset for index, word in enumerate(arguments) if word in options for offset in (0, 1)}
    return [word for index, word in enumerate(arguments) if index not in dropped]


def test_a_recipe_and_what_is_set_decide_as_in_training() -> None:
    said = plan("demo", "--gpu", "cpu", "--set", "train.max_steps=100", "--set", "optim.name=adamw")
    assert (said["tokens"], said["layout"]["precision"]) == (102_400, "fp32")
    assert said["checkpoint_bytes"] == 12 * said["parameters"]["total"]
    assert said["chosen"] == []


@pytest.mark.parametrize(
    ("parallel", "options", "expected"),
    [
        ({}, {}, (16, 1, 1)),
        ({"strategy": "fsdp", "tensor": 2}, {}, (1, 8, 2)),
        ({"strategy": "fsdp", "replicas": 4}, {}, (4, 4, 1)),
        ({"strategy": "fsdp", "replicas": 4, "tensor": 2}, {"strategy": "ddp", "tensor": 1}, (16, 1, 1)),
        ({"strategy": "ddp"}, {"strategy": "hsdp"}, (2, 8, 1)),
        ({"strategy": "fsdp"}, {"strategy": "hsdp", "replicas": 8}, (8, 2, 1)),
    ],
)
def test_the_layout_is_the_configs_unless_options_say_otherwise(parallel: dict, options: dict, expected: tuple) -> None:
    settings = tuple(f"parallel.{name}={value}" for name, value in parallel.items())
    layout = make_plan(PlanRequest(("gpt2-124m",), settings, gpus=16, **options)).layout
    assert (layout.replicas, layout.shards, layout.tensor) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config_files": ()}, "nothing to plan"),
        (
            {"gpus": 3, "tokens_per_step": 1024},
            "a step of 1 sequence .* cannot be shared evenly by 3 data ranks; .*--tokens-per-step 3072",
        ),
        ({"gpus": 5, "tensor": 5, "strategy": "fsdp"}, "n_head 12 cannot be divided among parallel.tensor 5"),
    ],
)
def test_mistakes_name_the_remedy(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_plan(PlanRequest(**{"config_files": ("gpt2-124m",), **options}))


def test_the_text_says_what_the_json_says() -> None:
    made = make_plan(PlanRequest(("gpt2-124m",), gpus=16, tokens=10e9, price_per_hour=2.5))
    text = as_text(made)
    assert "parameters  124,439,808" in text and "fits" in text and "between hosts" in text
    assert f"{made.cost:,.0f} at 2.5 a device and hour" in text
    assert "20 GB of shards" in text


def test_checkpointing_that_is_said_on_the_command_line_stands_above_the_configs() -> None:
    kept, recomputed = (
        plan("gpt2-124m", "--set", "train.activation_checkpointing=full", *options)["layout"]
        for options in (("--checkpointing", "none"), ())
    )
    assert (kept["activation_checkpointing"], recomputed["activation_checkpointing"]) == ("none", "full")


def test_a_training_that_never_ends_is_said_to() -> None:
    text = as_text(make_plan(PlanRequest(("gpt3-175b",), gpus=4096, strategy="fsdp", device_hours=10.0)))
    assert "no end with failures" in text


SHOWN = re.compile(r"```sh\ngptcli plan ([^\n]*)\n```\n\n```\n(.*?)```", re.S)
COMMAND = re.compile(r"^gptcli plan (.*)$", re.M)


def test_the_page_shows_what_its_commands_print(root: Path) -> None:
    shown = SHOWN.findall((root / "docs" / "scaling.md").read_text())
    assert len(shown) == 2
    for command, output in shown:
        printed = CliRunner().invoke(app, ["plan", *command.split()], catch_exceptions=False).stdout.splitlines()
        assert all(line in printed for line in output.splitlines()), command


def test_the_pages_table_of_large_trainings_is_what_their_commands_give(root: Path) -> None:
    page = (root / "docs" / "scaling.md").read_text()
    large = [command.split() for command in COMMAND.findall(page) if "--price-per-hour" in command]
    both = [plan(*command) for command in large]
    rows = {
        "operations": [f"{said['flops']:.3g}".replace("e+", "e") for said in both],
        "memory of a rank": [f"{said['memory_bytes']['total'] / 1e9:.1f} of 80 GB" for said in both],
        "at 40 % of the peak": [f"{said['train_seconds'] / 86400:.3g} days" for said in both],
        "device-hours with failures": [f"{float(format(said['device_hours'], '.3g')):,.0f}" for said in both],
        "failures a day": [f"{said['failures_per_day']:.2g}" for said in both],
        "time lost to both": [f"{100 * said['lost']:.2g} %" for said in both],
    }
    for name, cells in rows.items():
        assert f"| {name} | {cells[0]} | {cells[1]} |" in page, (name, cells)


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['gptcli', 'plan', 'gpt3-175b', '--gpus', '1024', '--strategy', 'fsdp']\n"
        "from gptcli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    run_fresh(code)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_a_checkpoint_has_the_size_that_was_planned(optim: str, tmp_path: Path) -> None:
    from gptcli.train.run import TrainRequest, train

    (tmp_path / "book.txt").write_text("a rose is a rose is a rose. " * 400)
    settings = {
        "optim.name": optim, "model.n_embd": 128, "model.vocab_size": 500, "model.context_length": 32,
        "data.tokenizer.name": "byte", "train.max_steps": 2, "train.tokens_per_step": 64, "device": "cpu",
        "train.sample_every_steps": 0,
    }  # fmt: skip
    assignments = tuple(f"{key}={value}" for key, value in settings.items())
    train(TrainRequest(corpus=(str(tmp_path / "book.txt"),), assignments=assignments, out=tmp_path / "run"))
    saved = tmp_path / "run" / "checkpoints" / "step-00000002"
    written = sum(path.stat().st_size for path in saved.iterdir())
    said = plan(str(tmp_path / "run" / "run.toml"))
    assert said["checkpoint_bytes"] == pytest.approx(written, rel=0.02)


def test_what_fits_nowhere_is_said_to() -> None:
    assert plan("llama3-70b", "--gpu", "rtx4090")["verdict"].startswith("does not fit, and neither would it")
