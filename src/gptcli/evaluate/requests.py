"""The requests of `gptcli eval` and their evaluation. Only here does this package open models and texts by path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli import strict_json
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import RawConfig
from gptcli.console import Progress, quantity, say
from gptcli.data.chat_encoder import EncodedConversation
from gptcli.data.config import DataConfig
from gptcli.data.corpus import Document, corpus_documents
from gptcli.data.lost_text import lost_text_of
from gptcli.data.reading_config import reading_config
from gptcli.data.rows import json_rows
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, DataError, UsageError, missing_extra
from gptcli.evaluate.choice_report import ChoiceReport
from gptcli.evaluate.choices import ChoiceRow, evaluate_choices, parse_row
from gptcli.evaluate.contamination import Contamination, ContaminationCounter, validation_contamination
from gptcli.evaluate.conversations import (
    encoded_conversations,
    kind_of,
    loss_on_of,
    stored_examples,
)
from gptcli.evaluate.example_report import ExampleReport
from gptcli.evaluate.examples import MOST_ANSWERS, ExampleOptions, ExampleScorer
from gptcli.evaluate.perplexity import (
    PerplexityOptions,
    encoded_texts,
    evaluate_documents,
    stored_documents,
)
from gptcli.evaluate.preferences import (
    Pair,
    encoded_pairs,
    holds_preferences,
    score_preferences,
    stored_pairs,
)
from gptcli.evaluate.report import PerplexityReport
from gptcli.evaluate.windows import LONGEST_DEFAULT
from gptcli.manifest import require_unchanged
from gptcli.session import ModelRequest, Session, data_settings, open_session
from gptcli.storage import read_regular
from gptcli.tokenizer.lost_text import LostText

if TYPE_CHECKING:
    from gptcli.evaluate.task_report import TaskReport

OF_ROWS = (".jsonl", ".json", ".csv", ".parquet")
CHOICE_ROW = 'write one {"prompt", "choices", "answer"} object a line'


@dataclass(frozen=True)
class TextsRequest:
    """A measurement of the perplexity of `texts`, or of the run's own validation split if there are none.

    Attributes:
        reading: the user's settings for reading the texts; the other settings are those of the run.
        as_conversations: whether the texts are conversations, as those of a run that was trained on such always are.
        answers: the number of short answers of conversations that are generated and compared, at most.
    """

    model: ModelRequest
    texts: tuple[str, ...] = ()
    options: PerplexityOptions = field(default_factory=PerplexityOptions)
    reading: RawConfig = field(default_factory=RawConfig)
    as_conversations: bool = False
    answers: int | None = None


@dataclass(frozen=True)
class ChoicesRequest:
    """Rows of choices in `file`, after the first `num_fewshot` rows of `shots`, or else of the file itself."""

    model: ModelRequest
    file: str
    shots: str | None = None
    num_fewshot: int = 0
    batch_size: int | None = None


@dataclass(frozen=True)
class TasksRequest:
    """Tasks of lm-evaluation-harness by their names; the other attributes are options of `run_tasks`."""

    model: ModelRequest
    tasks: tuple[str, ...]
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    batch_size: int | None = None
    apply_chat_template: bool = False


class NamedTexts:
    """The texts that the user names, read as the run's corpus was; the number of their tokens is not known."""

    def __init__(self, session: Session, request: TextsRequest) -> None:
        self.counter = ContaminationCounter(session.run)
        texts = self.counter.watch(corpus_documents(request.texts, corpus_config(session.run, request.reading)))
        self.documents, self.tokens = encoded_texts(session.tokenizer, texts), None

    def contamination(self) -> Contamination:
        """Return the part of the texts in the sketch of the run's training text."""
        return self.counter.contamination()


class ValidationSplit:
    """The validation split that a run keeps."""

    def __init__(self, session: Session) -> None:
        self.run = require_run(session)
        shards = validation_shards(session, self.run)
        name, lost = f"validation split of {self.run.path}", recorded_loss(self.run)
        self.documents = stored_documents(session.tokenizer, shards, name, lost)
        self.tokens = len(shards) - shards.documents * shards.framing.overhead

    def contamination(self) -> Contamination:
        """Return the overlap with the training split."""
        return validation_contamination(self.run)


def evaluate_texts(request: TextsRequest) -> PerplexityReport | ExampleReport:
    """Measure the perplexity of texts, or the answers in conversations, in fp32 or quantized.

    Raises:
        UsageError, DataError, CheckpointError, StorageError, OutOfMemoryError.
    """
    session = open_session(request.model)
    if request.as_conversations or kind_of(session.run) != "text":
        return evaluate_conversations(session, request)
    if request.answers is not None:
        raise UsageError("--answers has no effect on a text", "leave it out, or add --chat")
    if session.tokenizer.chat_template is not None and any(name.endswith(OF_ROWS) for name in request.texts):
        say("rows are scored as texts; --chat scores the answers of the assistant in conversations")
    longest = session.model.config.context_length
    if request.options.context is None and longest > LONGEST_DEFAULT:
        say(f"windows have {LONGEST_DEFAULT:,} tokens; the model's context is {longest:,}: --context {longest} uses it")
    source = NamedTexts(session, request) if request.texts else ValidationSplit(session)
    with Progress("eval", source.tokens, unit="tokens", scale=True) as progress:
        evaluation = evaluate_documents(
            session.model,
            session.tokenizer,
            source.documents,
            request.options,
            on_tokens=lambda count, nats: progress.update(count, loss=f"{nats / count:.3f}"),
        )
    report = PerplexityReport(replace(evaluation, contamination=source.contamination()), session.source)
    for warning in report.warnings():
        say(f"warning: {warning}")
    return report


def evaluate_conversations(session: Session, request: TextsRequest) -> ExampleReport:
    """Score the conversations that the user names, or else the validation examples of the run."""
    options, loss_on = request.options, loss_on_of(session.run)
    if options.worst:
        raise UsageError("--worst has no effect on conversations", "leave it out")
    if request.texts and loss_on == "all":
        loss_on = "assistant"
    answers = MOST_ANSWERS if request.answers is None else request.answers
    if loss_on == "all":  # the mask of kept examples does not tell answers from questions
        answers = 0
    counter = ContaminationCounter(session.run)
    with session.chat_encoder(loss_on) as encoder, Progress("eval", None, unit="tokens", scale=True) as progress:
        scorer = ExampleScorer(
            session.model,
            session.tokenizer,
            encoder.stop_ids,
            partial(session.complete, stop_ids=encoder.stop_ids),
            ExampleOptions(options.context, options.stride, options.batch_size, answers, options.seed),
            on_tokens=lambda count, nats: progress.update(count, loss=f"{nats / count:.3f}"),
        )
        pairs, preferences = list[Pair](), None
        if request.texts:
            source = ", ".join(request.texts)
            config = corpus_config(session.run, request.reading)
            if kind_of(session.run) == "preferences" and holds_preferences(request.texts, config):
                pairs = encoded_pairs(encoder, request.texts, config, 2 * session.model.config.context_length)
            encoded = [chosen for chosen, _ in pairs] or encoded_conversations(encoder, request.texts, config)
            examples = watched(encoded, session, source, counter)
        else:
            run = require_run(session)
            source, shards = f"validation split of {run.path}", validation_shards(session, run)
            if not shards.is_masked:
                raise UsageError(
                    f"the validation split of {run.path} is text", "leave out --chat, or name conversations"
                )
            pairs = stored_pairs(shards) if shards.unit_documents == 2 else pairs
            examples = iter([chosen for chosen, _ in pairs]) if pairs else stored_examples(shards)
        evaluation = scorer.evaluate(examples)
        if session.run and pairs:
            preferences = score_preferences(pairs, session.model, session.run, scorer.window_scorer)
    found = counter.contamination()
    if request.texts and found.is_much:
        say(f"warning: {found.warning()}")
    return ExampleReport(evaluation, session.source, source, loss_on, preferences)


def watched(
    examples: Iterable[EncodedConversation], session: Session, source: str, counter: ContaminationCounter
) -> Iterator[EncodedConversation]:
    """Yield examples, and look up their text, as the run's sketch has it, in what the run was trained on."""
    for example in examples:
        list(counter.watch(iter([Document(session.tokenizer.decode(example.ids), source)])))
        yield example


def recorded_loss(run: RunDirectory) -> LostText | None:
    """Return the validation text that the tokenizer lost, as data.json records it; None if it does not."""
    try:
        report = strict_json.parse(read_regular(run.path / "data.json"))
        return lost_text_of(report, "val") if "lost_text" in report else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def evaluate_choice_file(request: ChoicesRequest) -> ChoiceReport:
    """Let the model choose in every row of a file.

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
        rows = rows[request.num_fewshot :]  # an example whose answer is shown tests nothing
    session = open_session(request.model)
    with Progress("eval", sum(len(row.choices) for row in rows), unit="choices") as progress:
        evaluation = evaluate_choices(
            session.model,
            session.tokenizer,
            rows,
            shots=shots[: request.num_fewshot],
            batch_size=request.batch_size,
            on_scored=progress.update,
        )
    if evaluation.cut_rows:
        say(
            f"warning: the beginning of {quantity(evaluation.cut_rows, 'row')} was not read, since the model's context "
            f"of {session.model.config.context_length:,} tokens is shorter"
        )
    if evaluation.unknown_tokens:
        say(f"warning: the tokenizer lacks {evaluation.unknown_tokens:,} characters of these rows, read as <unk>")
    return ChoiceReport(evaluation, session.source, request.file)


def read_choices(file: str) -> list[ChoiceRow]:
    """Return the rows of a file of JSON, in any layout."""
    try:
        found = list(json_rows(Path(file), file))
    except DataError as error:
        raise DataError(error.message, CHOICE_ROW) from error
    if not found:
        raise DataError(f"{file} holds no row", CHOICE_ROW)
    return [parse_row(row, str(place)) for place, row in found]


def evaluate_tasks(request: TasksRequest) -> TaskReport:
    """Run tasks of lm-evaluation-harness.

    Raises:
        UsageError: lm_eval is not installed, or there is no such task.
        DataError, CheckpointError, StorageError, OutOfMemoryError.
    """
    try:
        from gptcli.evaluate import chat_harness, harness, task_report
    except ImportError as error:
        raise missing_extra("lm_eval", "eval", "gptcli eval --tasks") from error
    if (request.limit is not None and request.limit < 1) or (request.num_fewshot or 0) < 0:
        raise UsageError("--limit is 1 or more, and --num-fewshot 0 or more")
    session = open_session(request.model)
    with ExitStack() as stack:
        if request.apply_chat_template:
            encoder = stack.enter_context(session.chat_encoder())
            model = chat_harness.ChatHarnessModel(session.model, encoder, request.batch_size)
        else:
            model = harness.HarnessModel(session.model, session.tokenizer, request.batch_size, session.stop_ids)
        evaluation = harness.run_tasks(
            model,
            request.tasks,
            limit=request.limit,
            num_fewshot=request.num_fewshot,
            include_path=request.include_path,
        )
    return task_report.TaskReport(evaluation, session.source)


def corpus_config(run: RunDirectory | None, reading: RawConfig) -> DataConfig:
    """Return how texts are read: as the run's corpus was, unless the user's settings say otherwise."""
    return reading_config(reading, data_settings(run), "" if run is None else str(run.config_path))


def require_run(session: Session) -> RunDirectory:
    """Return the run that the model was loaded from.

    Raises:
        UsageError: the model is not a run's.
    """
    if session.run is None:
        raise UsageError(f"{session.source} is not a run, so it has no validation split", "name a text to evaluate on")
    return session.run


def validation_shards(session: Session, run: RunDirectory) -> TokenShards:
    """Return the validation split that training kept in the run directory.

    Raises:
        CheckpointError: the run has no copy of its split, or one of another tokenizer.
    """
    directory, remedy = run.path / "val", "name a text to evaluate on: gptcli eval RUN TEXT"
    if not directory.is_dir():
        raise CheckpointError(f"{run.path} has no copy of its validation split (large ones are not kept)", remedy)
    require_unchanged(run.path, "val")
    shards = TokenShards.open(directory)
    if shards.tokenizer_fingerprint != session.tokenizer.fingerprint:
        raise CheckpointError(f"{directory} was written with another tokenizer than the one in {run.path}", remedy)
    return shards
