"""`gptcli export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli.cli.options import AsJson
from gptcli.cli.output import show_report


def export(
    run: Annotated[str, typer.Argument(help="A run, a Hugging Face model directory, or hf:NAME.", show_default=False)],
    to: Annotated[
        Literal["hf", "gguf", "onnx", "nanogpt"],
        typer.Option(help="For transformers and vLLM; llama.cpp; onnxruntime; nanoGPT.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="The directory (hf, nanogpt) or file (gguf, onnx) to write.", show_default=False)
    ],
    dtype: Annotated[
        Literal["f32", "bf16", "f16"] | None,
        typer.Option(help="Numbers to store the weights in (default: f32).", show_default=False),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Of gguf: q8_0, q5_1, q5_0, q4_1 or q4_0 in place of --dtype.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's licence for its card, such as apache-2.0.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file at --out if there is one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model for another program, read it back, and say how far its logits are from the model's."""
    from gptcli.interop.export import ExportRequest
    from gptcli.interop.export import export as export_request

    exported = export_request(ExportRequest(run, to, out, checkpoint, dtype, quantize, license, force))
    show_report(exported, as_json)
