"""`gptcli export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from gptcli.cli.options import AsJson, Checkpoint, License, Model, output_option
from gptcli.cli.output import show_report


def export(
    run: Model,
    to: Annotated[
        Literal["hf", "gguf", "ollama", "onnx", "nanogpt"],
        output_option(help="Write for transformers and vLLM, llama.cpp, ollama, onnxruntime or nanoGPT."),
    ],
    out: Annotated[Path, output_option(help="Write to this directory (hf, ollama, nanogpt) or file (gguf, onnx).")],
    dtype: Annotated[
        Literal["f32", "bf16", "f16"] | None,
        output_option(help="Store the weights in this number format (default: f32)."),
    ] = None,
    quantize: Annotated[
        str | None,
        output_option(help="Quantize the weights (gguf, ollama): q8_0, q5_1, q5_0, q4_1 or q4_0, in place of --dtype."),
    ] = None,
    checkpoint: Checkpoint = "best",
    license: License = None,
    merge: Annotated[
        bool,
        output_option(
            "--merge/--no-merge", help="Add an adapter to its base model; otherwise write it alone (hf), for PEFT."
        ),
    ] = True,
    force: Annotated[bool, output_option("--force", help="Replace the file at --out if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a model for another program and check the result.

    The written model is read back, and the difference between its logits and the model's is printed. An adapter is
    merged into its base model in fp32, and the difference that this makes is printed too.

    Examples:
        gptcli export runs/book --to gguf --out book.gguf --quantize q8_0
        gptcli export runs/answers --to ollama --out answers
        gptcli export runs/book --to hf --out book-hf --dtype bf16
        gptcli export runs/book --to onnx --out book.onnx
    """
    from gptcli.interop.export import ExportRequest
    from gptcli.interop.export import export as export_request

    exported = export_request(ExportRequest(run, to, out, checkpoint, dtype, quantize, license, force, merge))
    show_report(exported, as_json)
