"""`gptcli plan`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, MOST_TOKENS, AsJson, Assignments
from gptcli.console import show

devices_option = partial(typer.Option, rich_help_panel="Devices")
parallelism_option = partial(typer.Option, rich_help_panel="Parallelism")
training_option = partial(typer.Option, rich_help_panel="Training")


def plan(
    config: Annotated[
        list[str] | None,
        typer.Argument(help="TOML files or names of shipped configurations, as for -c; later ones win."),
    ] = None,
    assignments: Assignments = None,
    gpus: Annotated[int, devices_option(min=1, max=10**7, help="Train on this many devices in all.")] = 1,
    gpu: Annotated[
        str,
        devices_option(
            help="Train on this device: a100, h100, h200, b200, l40s, rtx4090, rtx3090, mi300x or cpu; numbers may "
            "follow, as in h100,memory=94e9."
        ),
    ] = "h100",
    per_host: Annotated[int, devices_option(min=1, max=10**7, help="Count this many devices in one machine.")] = 8,
    strategy: Annotated[
        Literal["ddp", "fsdp", "hsdp"] | None,
        parallelism_option(
            help="Keep a whole copy on each device (ddp), one copy in shards (fsdp), or several copies in shards "
            "(hsdp) (default: that of the configuration, or ddp)."
        ),
    ] = None,
    tensor: Annotated[
        int | None,
        parallelism_option(
            min=1,
            max=10**7,
            help="Split the matrices of a block among this many devices (default: that of the configuration).",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        parallelism_option(
            min=1, max=10**7, help="Keep this many copies of the model, with hsdp (default: one per machine)."
        ),
    ] = None,
    checkpointing: Annotated[
        Literal["none", "full", "selective"] | None,
        parallelism_option(
            help="Recompute this part of each block in the backward pass, to save memory (default: that of the "
            "configuration)."
        ),
    ] = None,
    tokens: Annotated[
        float | None,
        training_option(
            min=1,
            max=1e18,
            help="Train on this many tokens, as in 300e9 (default: the steps of the configuration, or 20 per "
            "parameter).",
        ),
    ] = None,
    tokens_per_step: Annotated[
        int | None, training_option(min=1, max=10**15, help="Train on this many tokens per optimizer step.")
    ] = None,
    batch_size: Annotated[
        int | None, training_option(min=1, max=MOST, help="Compute this many sequences at once on a device.")
    ] = None,
    seq_len: Annotated[
        int | None,
        training_option(
            min=1, max=MOST_TOKENS, help="Train on sequences of this many tokens (default: the model's context)."
        ),
    ] = None,
    mfu: Annotated[
        float, devices_option(min=1e-6, max=1, help="Assume that training reaches this fraction of the peak rate.")
    ] = 0.4,
    price_per_hour: Annotated[
        float | None, devices_option(min=0, max=1e9, help="Estimate costs by this hourly price of one device.")
    ] = None,
    write_rate: Annotated[
        float,
        devices_option(min=1, max=1e18, help="Assume that a machine writes checkpoints at this many bytes a second."),
    ] = 1e9,
    device_hours: Annotated[
        float, devices_option(min=1e-3, max=1e12, help="Assume this many hours between two failures of a device.")
    ] = 50_000,
    as_json: AsJson = False,
) -> None:
    """Estimate the memory, time and cost of a training.

    Parameters, operations, memory, time, communication and cost are computed without building the model.

    Examples:
        gptcli plan gpt2-124m
        gptcli plan llama3-8b --gpus 64 --strategy fsdp --tokens 300e9
        gptcli plan gpt2-124m --gpu rtx4090 --price-per-hour 0.5
    """
    from gptcli.report.planning import text
    from gptcli.report.planning.run import PlanRequest, make_plan

    made = make_plan(
        PlanRequest(
            config_files=tuple(config or ()),
            assignments=tuple(assignments or ()),
            gpus=gpus,
            gpu=gpu,
            per_host=per_host,
            strategy=strategy,
            tensor=tensor,
            replicas=replicas,
            checkpointing=checkpointing,
            tokens=tokens,
            tokens_per_step=tokens_per_step,
            batch_size=batch_size,
            seq_len=seq_len,
            mfu=mfu,
            price_per_hour=price_per_hour,
            write_rate=write_rate,
            device_hours=device_hours,
        )
    )
    show(strict_json.dumps(text.as_json(made)) if as_json else text.as_text(made))
