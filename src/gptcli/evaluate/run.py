"""What `gptcli eval` does, from the user's words to an evaluation: the one module of this package that knows paths."""

from __future__ import annotations

from dataclasses import dataclass

from gptcli.checkpoint.run import RunDirectory
from gptcli.config import RawConfig, read_toml, validate
from gptcli.console import Progress, say
from gptcli.data.config import DataConfig
from gptcli.data.corpus import open_corpus
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, UsageError
from gptcli.evaluate.perplexity import Evaluation, encoded_texts, evaluate_documents, stored_documents
from gptcli.interop.load import LoadedModel, load_model
from gptcli.models.inference import Quantization, quantized
from gptcli.nn.device import resolve_device


@dataclass(frozen=True)
class EvalRequest:
    """What the user typed; no `texts` stands for the run's own validation split."""

    model: str
    texts: tuple[str, ...] = ()
    context: int | None = None
    stride: int | None = None
    batch_size: int | None = None
    worst: int = 0
    checkpoint: str = "best"
    quantize: Quantization | None = None
    device: str = "auto"
    text_field: str | None = None
    document_separator: str | None = None


def evaluate(request: EvalRequest) -> tuple[Evaluation, str]:
    """Evaluate as requested, in fp32 or quantized; returns the evaluation and, in words, the model that it is of.

    Raises:
        UsageError, DataError, CheckpointError, StorageError, OutOfMemoryError.
    """
    device = resolve_device(request.device)
    loaded = load_model(request.model, device=device, checkpoint=request.checkpoint)
    model, source = loaded.model, loaded.source
    if request.quantize:
        model, source = quantized(model, request.quantize), f"{source}, quantized to {request.quantize}"
    say(f"{source}, on {device}" if request.quantize else f"{source}, on {device} in fp32")
    if request.texts:
        total = None
        documents = encoded_texts(loaded.tokenizer, open_corpus(request.texts, corpus_config(loaded.run, request)))
    else:
        shards = validation_shards(loaded)
        total = len(shards) - shards.documents
        documents = stored_documents(loaded.tokenizer, shards, f"validation split of {loaded.run.path}")
    with Progress("eval", total, unit="tokens", scale=True) as progress:
        evaluation = evaluate_documents(
            model,
            loaded.tokenizer,
            documents,
            context=request.context,
            stride=request.stride,
            batch_size=request.batch_size,
            worst=request.worst,
            on_tokens=lambda count, nats: progress.update(count, loss=f"{nats / count:.3f}"),
        )
    if evaluation.unknown_tokens:
        say(
            f"warning: the tokenizer lacks {evaluation.unknown_tokens:,} characters of this text, and <unk> was scored "
            "in their place: do not compare these figures with those of a tokenizer that has them"
        )
    return evaluation, source


def corpus_config(run: RunDirectory | None, request: EvalRequest) -> DataConfig:
    """How the texts are read: as the run's corpus was, unless the user says otherwise."""
    values = {} if run is None else read_toml(run.config_path).values.get("data", {})
    origins = {} if run is None else dict.fromkeys(values, str(run.config_path))
    chosen = {"text_field": request.text_field, "document_separator": request.document_separator}
    given = {key: value for key, value in chosen.items() if value is not None}
    return validate(DataConfig, RawConfig(values | given, origins | dict.fromkeys(given, "command line")))


def validation_shards(loaded: LoadedModel) -> TokenShards:
    """The validation split that training kept in the run directory.

    Raises:
        UsageError: the model is not a run.
        CheckpointError: the run was not left its split.
    """
    if loaded.run is None:
        raise UsageError(f"{loaded.source} is not a run, so it has no validation split", "name a text to evaluate on")
    directory = loaded.run.path / "val"
    if not directory.is_dir():
        raise CheckpointError(
            f"{loaded.run.path} has no copy of its validation split (large ones are not kept)",
            "name a text to evaluate on: gptcli eval RUN TEXT",
        )
    shards = TokenShards.open(directory)
    if shards.tokenizer_fingerprint != loaded.tokenizer.fingerprint:
        raise CheckpointError(
            f"{directory} was written with another tokenizer than the one in {loaded.run.path}",
            "name a text to evaluate on: gptcli eval RUN TEXT",
        )
    return shards
