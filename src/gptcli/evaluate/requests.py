"""What `gptcli eval` does, from the user's words to an evaluation: the one module of this package that knows paths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli import strict_json
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import RawConfig, read_toml
from gptcli.console import Progress, quantity, say
from gptcli.data.config import DataConfig
from gptcli.data.corpus import open_corpus
from gptcli.data.lost_text import lost_text_of
from gptcli.data.reading_config import reading_config
from gptcli.data.rows import json_rows
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, DataError, UsageError, missing_extra
from gptcli.evaluate.choices import ChoiceEvaluation, ChoiceRow, evaluate_choices, parse_row
from gptcli.evaluate.contamination import ContaminationCounter, validation_contamination
from gptcli.evaluate.perplexity import Evaluation, encoded_texts, evaluate_documents, stored_documents
from gptcli.evaluate.windows import LONGEST_DEFAULT
from gptcli.interop.load import LoadedModel, load_model
from gptcli.manifest import require_unchanged
from gptcli.models.gpt import GPT
from gptcli.models.inference import Quantization, quantized
from gptcli.nn.device import resolve_device
from gptcli.storage import read_regular
from gptcli.tokenizer.lost_text import LostText

if TYPE_CHECKING:
    from gptcli.evaluate.harness import HarnessEvaluation


CHOICE_ROW = 'write one {"prompt", "choices", "answer"} object a line'


@dataclass(frozen=True)
class ModelRequest:
    """The model that the user named, and how it is to be run."""

    model: str
    batch_size: int | None = None
    checkpoint: str = "best"
    quantize: Quantization | None = None
    device: str = "auto"


@dataclass(frozen=True)
class EvalRequest(ModelRequest):
    """What the user typed; no `texts` stands for the run's own validation split."""

    texts: tuple[str, ...] = ()
    context: int | None = None
    stride: int | None = None
    worst: int = 0
    reading: RawConfig = field(default_factory=RawConfig)
    """The user's settings for reading the texts; the other settings are those of the run."""


@dataclass(frozen=True)
class ChoicesRequest(ModelRequest):
    """Rows of choices in `file`, after the first `num_fewshot` rows of `shots`, or else of the file itself."""

    file: str = ""
    num_fewshot: int = 0
    shots: str | None = None


@dataclass(frozen=True)
class TasksRequest(ModelRequest):
    """Tasks of lm-evaluation-harness by their names, and in what way."""

    tasks: tuple[str, ...] = ()
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None


def open_model(request: ModelRequest) -> tuple[LoadedModel, GPT, str]:
    """What was loaded, the model to be scored, in fp32 or quantized, and in words what it is.

    Raises:
        UsageError, CheckpointError, StorageError.
    """
    if request.batch_size is not None and request.batch_size < 1:
        raise UsageError(f"a batch of {request.batch_size} holds nothing", "choose --batch-size 1 or more")
    device = resolve_device(request.device)
    loaded = load_model(request.model, device=device, checkpoint=request.checkpoint)
    model, source = loaded.model, loaded.source
    if request.quantize:
        model, source = quantized(model, request.quantize), f"{source}, quantized to {request.quantize}"
    say(f"{source}, on {device}" if request.quantize else f"{source}, on {device} in fp32")
    return loaded, model, source


def evaluate(request: EvalRequest) -> tuple[Evaluation, str]:
    """Evaluate as requested, in fp32 or quantized; returns the evaluation and, in words, the model that it is of.

    Raises:
        UsageError, DataError, CheckpointError, StorageError, OutOfMemoryError.
    """
    loaded, model, source = open_model(request)
    if request.context is None and model.config.context_length > LONGEST_DEFAULT:
        longest = model.config.context_length
        say(f"windows have {LONGEST_DEFAULT:,} tokens; the model's context is {longest:,}: --context {longest} uses it")
    counter = ContaminationCounter(loaded.run if request.texts else None)
    if request.texts:
        total = None
        texts = counter.watch(open_corpus(request.texts, corpus_config(loaded.run, request)))
        documents = encoded_texts(loaded.tokenizer, texts)
    else:
        shards = validation_shards(loaded)
        total = len(shards) - shards.documents * shards.framing.overhead
        name, lost = f"validation split of {loaded.run.path}", recorded_loss(loaded.run)
        documents = stored_documents(loaded.tokenizer, shards, name, lost)
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
    seen = counter.contamination() if request.texts else validation_contamination(loaded.run)
    evaluation = replace(evaluation, contamination=seen)
    if seen.is_much:
        say(f"warning: {seen.warning()}")
    if evaluation.unknown_tokens:
        say(
            f"warning: the tokenizer lacks {evaluation.unknown_tokens:,} characters of this text, and <unk> was scored "
            "in their place: do not compare these figures with those of a tokenizer that has them"
        )
    if lost_words := evaluation.lost.words("this text"):
        say(f"warning: {lost_words}")
    return evaluation, source


def recorded_loss(run: RunDirectory) -> LostText | None:
    """The validation text that the tokenizer lost, as data.json records it; None if it does not."""
    try:
        report = strict_json.parse(read_regular(run.path / "data.json"))
        return lost_text_of(report, "val") if "lost_text" in report else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def evaluate_choice_file(request: ChoicesRequest) -> tuple[ChoiceEvaluation, str]:
    """Let the model choose in every row of a file; returns the evaluation and, in words, the model that it is of.

    Raises:
        UsageError, DataError, CheckpointError, StorageError, OutOfMemoryError.
    """
    rows = read_choices(request.file)
    shots = read_choices(request.shots) if request.shots else rows
    if not 0 <= request.num_fewshot <= len(shots):
        raise UsageError(
            f"--num-fewshot {request.num_fewshot} is not possible with {len(shots)} rows", "choose fewer examples"
        )
    if shots is rows:
        rows = rows[request.num_fewshot :]  # an example whose answer was shown is no test
    loaded, model, source = open_model(request)
    with Progress("eval", sum(len(row.choices) for row in rows), unit="choices") as progress:
        evaluation = evaluate_choices(
            model,
            loaded.tokenizer,
            rows,
            shots=shots[: request.num_fewshot],
            batch_size=request.batch_size,
            on_scored=progress.update,
        )
    if evaluation.cut_rows:
        say(
            f"warning: the beginning of {quantity(evaluation.cut_rows, 'row')} was not read, since the model's context "
            f"of {model.config.context_length:,} tokens is shorter"
        )
    if evaluation.unknown_tokens:
        say(f"warning: the tokenizer lacks {evaluation.unknown_tokens:,} characters of these rows, read as <unk>")
    return evaluation, source


def read_choices(file: str) -> list[ChoiceRow]:
    """The rows of a file of JSON, in any layout."""
    try:
        found = list(json_rows(Path(file), file))
    except DataError as error:
        raise DataError(error.message, CHOICE_ROW) from error
    if not found:
        raise DataError(f"{file} holds no row", CHOICE_ROW)
    return [parse_row(row, place) for place, row in found]


def evaluate_tasks(request: TasksRequest) -> tuple[HarnessEvaluation, str]:
    """Run tasks of lm-evaluation-harness; returns their scores and, in words, the model that they are of.

    Raises:
        UsageError: lm_eval is not installed, or there is no such task.
        DataError, CheckpointError, StorageError, OutOfMemoryError.
    """
    try:
        from gptcli.evaluate import harness
    except ImportError as error:
        raise missing_extra("lm_eval", "eval", "gptcli eval --tasks") from error
    if (request.limit is not None and request.limit < 1) or (request.num_fewshot or 0) < 0:
        raise UsageError("--limit is 1 or more, and --num-fewshot 0 or more")
    loaded, model, source = open_model(request)
    evaluation = harness.run_tasks(
        harness.HarnessModel(model, loaded.tokenizer, request.batch_size),
        request.tasks,
        limit=request.limit,
        num_fewshot=request.num_fewshot,
        include_path=request.include_path,
    )
    return evaluation, source


def corpus_config(run: RunDirectory | None, request: EvalRequest) -> DataConfig:
    """How the texts are read: as the run's corpus was, unless the user says otherwise."""
    if run is None:
        return reading_config(request.reading, {})
    require_unchanged(run.path, run.config_path.name)
    return reading_config(request.reading, read_toml(run.config_path).values.get("data", {}), str(run.config_path))


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
    require_unchanged(loaded.run.path, "val")
    shards = TokenShards.open(directory)
    if shards.tokenizer_fingerprint != loaded.tokenizer.fingerprint:
        raise CheckpointError(
            f"{directory} was written with another tokenizer than the one in {loaded.run.path}",
            "name a text to evaluate on: gptcli eval RUN TEXT",
        )
    return shards
