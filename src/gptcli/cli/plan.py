"""`gptcli plan`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, MOST_TOKENS, AsJson, Assignments
from gptcli.console import show


def plan(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            help="TOML files or names of shipped ones, as -c takes them; later ones win.", show_default=False
        ),
    ] = None,
    assignments: Assignments = None,
    gpus: Annotated[int, typer.Option(min=1, max=10**7, help="Devices in all.")] = 1,
    gpu: Annotated[
        str,
        typer.Option(help="a100, h100, h200, b200, l40s, rtx4090, rtx3090, mi300x, cpu; or numbers: h100,memory=94e9."),
    ] = "h100",
    per_host: Annotated[int, typer.Option(min=1, max=10**7, help="Devices in one machine.")] = 8,
    strategy: Annotated[
        Literal["ddp", "fsdp", "hsdp"] | None,
        typer.Option(
            help="Whole copies, one model in shards, or several copies in shards each (default: the config's, or ddp).",
            show_default=False,
        ),
    ] = None,
    tensor: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**7,
            help="Devices that share the matrices of a block (default: the config's).",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**7, help="With hsdp: copies of the model (default: one a host).", show_default=False
        ),
    ] = None,
    checkpointing: Annotated[
        Literal["none", "full", "selective"] | None,
        typer.Option(
            help="What of the blocks the backward pass computes again, to save memory (default: as the config says).",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option(
            min=1, max=1e18, help="Training tokens, as in 300e9 (default: the config's steps, or 20 a parameter)."
        ),
    ] = None,
    tokens_per_step: Annotated[
        int | None, typer.Option(min=1, max=10**15, help="Tokens of one optimizer step.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Sequences that a device takes at once.")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=1, max=MOST_TOKENS, help="Tokens of a sequence (default: the context).")
    ] = None,
    mfu: Annotated[float, typer.Option(min=1e-6, max=1, help="Part of the devices' peak that training reaches.")] = 0.4,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, max=1e9, help="Of one device, in your currency.")
    ] = None,
    write_rate: Annotated[
        float, typer.Option(min=1, max=1e18, help="Bytes a second that a host writes checkpoints with.")
    ] = 1e9,
    device_hours: Annotated[
        float, typer.Option(min=1e-3, max=1e12, help="Mean hours between two failures of one device.")
    ] = 50_000,
    as_json: AsJson = False,
) -> None:
    """Say what a training will take before anything is built: parameters, operations, memory, time, talk, cost."""
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
