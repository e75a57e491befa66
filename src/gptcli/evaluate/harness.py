"""A model as an LM of EleutherAI's lm-evaluation-harness, which runs its tasks on it.

Import this module only to run tasks: it needs lm_eval (the extra `eval`). Every convention is that of lm-eval's own
`--model hf` (lm_eval/models/huggingface.py): how a request longer than the context is cut, what precedes a text, where
a generation stops. So the numbers are those of `lm_eval --model hf` on the exported model.
"""

from __future__ import annotations

import difflib
import logging
import math
import random
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import evaluate
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptcli.console import Progress, say
from gptcli.errors import DataError, GptcliError, UsageError, first_line
from gptcli.evaluate.continuations import Continuation, Score, score_continuations
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Request
from gptcli.generate.sample import Sample
from gptcli.generate.step import decoding_step
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer

DEFAULT_MAX_GEN_TOKS = 256
"""The default length of a generation in tokens, as in lm-eval."""
FEWSHOT_SEED = 1234
"""The seed with which lm-eval draws worked examples."""
SAMPLING_ARGUMENTS = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
"""Generation arguments of a task that are passed on unchanged."""


@dataclass(frozen=True)
class TaskScore:
    """One metric of a task or a group of tasks.

    Attributes:
        filter: how the answer was extracted from the generated text.
        value, stderr: None if they are not finite numbers.
    """

    task: str
    metric: str
    filter: str
    value: float | None
    stderr: float | None
    num_fewshot: int | None
    samples: int | None
    version: str | None


@dataclass(frozen=True)
class HarnessEvaluation:
    """The scores of tasks and the time that they took."""

    scores: tuple[TaskScore, ...]
    seconds: float


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no type annotations
    """Answers lm-eval's three kinds of request; `batch_size` is that of `score_continuations` and of the engine.

    A text ends at `stop_ids`, and at the token by which texts ended in training.
    """

    applies_chat_template = False

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, batch_size: int | None = None, stop_ids: Collection[int] = ()
    ) -> None:
        super().__init__()
        self.model, self.text, self.batch_size = model, tokenizer, batch_size
        self.stop_ids = tokenizer.framing.stop_ids | frozenset(stop_ids)
        self.max_length = model.config.context_length
        self._device = model.embedding.weight.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; raises UsageError if the tokenizer has none."""
        return self.needed(self.text.framing.stop_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context; raises UsageError if the tokenizer has none."""
        return self.needed(self.text.framing.begin_id)

    def needed(self, token: int | None) -> int:
        """Return the token; raise UsageError if it is None."""
        if token is None:
            raise UsageError(
                "this task needs a token that begins or ends a text, which the tokenizer lacks",
                "choose another task or model",
            )
        return token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of a text, after the bos token if this tokenizer adds one and the text has none."""
        ids = self.text.encode(string, allow_special=True)
        if add_special_tokens is None:
            add_special_tokens = ids[:1] != self.text.framing.before
        return [self.prefix_token_id, *ids] if add_special_tokens and self.text.adds_bos else ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether it is the greedy one) of each (context, continuation)."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-probability of each whole text, in windows that score every token once."""
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1
                )
            ]
            for text in (request.args[0] for request in requests)
        ]
        scores = iter(self.score([Continuation(tuple(a), tuple(b)) for text in windows for a, b in text]))
        return [sum(next(scores).logprob for _ in text) for text in windows]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        for (_, text), _, ids in requests:
            if not 1 <= len(ids) <= self.max_length:
                raise DataError(
                    f"the continuation {text[:40]!r} has {len(ids)} tokens, and the model can score 1 to "
                    f"{self.max_length}",
                    "choose another task",
                )
        cut = sum(len(context) + len(ids) > self.max_length + 1 for _, context, ids in requests)
        self.say_cut(cut, len(requests))
        scores = self.score([Continuation(tuple(a), tuple(b)) for _, a, b in requests])
        return [(score.logprob, score.is_greedy) for score in scores]

    def score(self, continuations: list[Continuation]) -> list[Score]:
        """Return the scores, with a progress bar."""
        with Progress("eval", len(continuations), unit="requests") as progress:
            return score_continuations(self.model, continuations, batch_size=self.batch_size, on_scored=progress.update)

    def say_cut(self, cut: int, total: int) -> None:
        """Warn about requests that are cut."""
        if cut:
            say(
                f"warning: {cut:,} of {total:,} requests are longer than the model's context of {self.max_length} "
                "tokens, and their beginning is not read"
            )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return a text after each context, up to a stop string of the task or the end-of-text token."""
        by_arguments: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_arguments.setdefault(repr(request.args[1]), []).append(number)
        texts: dict[int, str] = {}
        with Progress("eval", len(requests), unit="requests") as progress:
            for numbers in by_arguments.values():
                contexts = [requests[number].args[0] for number in numbers]
                for place, text in self.generate(contexts, requests[numbers[0]].args[1]):
                    texts[numbers[place]] = text
                    progress.update()
        return [texts[number] for number in range(len(requests))]

    def generate(self, contexts: list[str], arguments: dict[str, Any]) -> Iterator[tuple[int, str]]:
        """Yield (place, text) of each context when it is done.

        Raises:
            UsageError: the task leaves no room for its question, or has an unknown generation argument.
        """
        config, until = self.generation(arguments)
        room = self.max_length - config.max_new_tokens
        encoded = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        self.say_cut(sum(len(ids) > room for ids in encoded), len(encoded))
        places: dict[Request, int] = {}
        for place, ids in enumerate(encoded):
            sample = Sample(self.text, ids[-room:], config.params(place), stop_ids=self.stop_ids)
            places[sample.request] = place
        engine = Engine(self.model, config.engine_config(encoded), decoding_step(self.model))
        for request in engine.run(list(places)):
            if request.finish_reason is not None:
                text = self.text.decode(request.ids[request.prompt_length :])
                yield places[request], postprocess_generated_text(text, until, None)

    def generation(self, arguments: dict[str, Any]) -> tuple[GenerationConfig, list[str]]:
        """Return the engine's config and the stop strings for a task's generation arguments."""
        wanted = dict(normalize_gen_kwargs(arguments, DEFAULT_MAX_GEN_TOKS))
        until = handle_stop_sequences(wanted.pop("until"), eos=self.text.token_text(self.eot_token_id))
        count, is_drawn = wanted.pop("max_gen_toks"), wanted.pop("do_sample")
        if count >= self.max_length:
            raise UsageError(
                f"the task asks for {count} tokens of text, and the model's context of {self.max_length} must hold "
                "the question too",
                "set max_gen_toks lower in the task's generation_kwargs, or choose another task",
            )
        unknown = sorted(set(wanted) - SAMPLING_ARGUMENTS)
        if unknown:
            raise UsageError(f"the task asks for the generation argument {unknown[0]}, which gptcli lacks")
        if not is_drawn:
            wanted = {"temperature": 0.0} | {k: v for k, v in wanted.items() if k == "repetition_penalty"}
        try:
            stop = tuple(filter(None, until))
            config = GenerationConfig(max_new_tokens=count, batch_size=self.batch_size or 32, stop=stop, **wanted)
            return config, until
        except ValueError as error:
            raise UsageError(f"the task's generation arguments {wanted} are not possible: {error}") from error


def run_tasks(
    model: HarnessModel,
    names: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include_path: str | None = None,
) -> HarnessEvaluation:
    """Run tasks by the names of tasks, groups or tags, patterns, or task files.

    As always in lm-eval, a task file may name Python functions beside it, which are run.

    Args:
        limit: documents of each task at most.
        num_fewshot: worked examples; None leaves it to each task.
        include_path: a directory that is searched for task files (.yaml) too.

    Raises:
        UsageError: there is no such task, or the model cannot do it.
        DataError: a task's data cannot be read or reached.
    """
    began = time.monotonic()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = find_tasks(names, include_path)
    tasks = [task for name in names for known in known_tasks(manager, name) for task in load_task(manager, known)]
    loaded = manager.load(tasks)
    for task in loaded["tasks"].values():
        choose_shots(task, num_fewshot)
    seed_everything()
    is_chat = model.applies_chat_template
    found = evaluate(
        model, loaded, limit=limit, log_samples=False, apply_chat_template=is_chat, fewshot_as_multiturn=is_chat
    )
    assert found is not None  # it is None in processes other than the first
    return HarnessEvaluation(task_scores(found), time.monotonic() - began)


def choose_shots(task: Task, num_fewshot: int | None) -> None:
    """Set the number of worked examples as lm-eval does: the user's, unless the task itself sets 0; and their seed."""
    configured = task.get_config("num_fewshot")
    if configured != 0 and (num_fewshot is not None or configured is None):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def seed_everything() -> None:
    """Set lm-eval's seeds for what tasks draw: examples, splits, bootstraps."""
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)


def find_tasks(names: Sequence[str], include_path: str | None) -> TaskManager:
    """Return a manager that has all tasks; lm-eval's own thousands of files, which take seconds, are read if needed."""
    if include_path is not None and not Path(include_path).is_dir():
        raise UsageError(f"{include_path} is not a directory", "name one that holds task files (.yaml)")
    manager = open_manager(include_path, include_defaults=False)
    if all(known_tasks(manager, name) for name in names):
        return manager
    manager = open_manager(include_path, include_defaults=True)
    for name in names:
        if not known_tasks(manager, name):
            near = difflib.get_close_matches(name, manager.all_tasks, 1)
            remedy = f"did you mean {near[0]}?" if near else "lm-eval ls tasks lists them all"
            raise UsageError(f"lm_eval has no task {name!r}", remedy)
    return manager


def open_manager(include_path: str | None, include_defaults: bool) -> TaskManager:
    """Return a manager of the tasks in `include_path`, and of lm-eval's own if `include_defaults`."""
    try:
        return TaskManager(include_path=include_path, include_defaults=include_defaults)
    except Exception as error:  # a task file may hold anything
        raise DataError(
            f"the task files in {include_path} cannot be read: {reason_of(error)}", "correct them"
        ) from error


def known_tasks(manager: TaskManager, name: str) -> list[str]:
    """Return the tasks of a name or pattern, or a task file itself."""
    return [name] if Path(name).is_file() else manager.match_tasks([name])


def load_task(manager: TaskManager, name: str) -> list[Task | Group]:
    """Load a group, or the tasks of a name, with their data."""
    try:
        loaded = manager.load([name])
    except GptcliError:
        raise
    except Exception as error:  # whatever datasets, its transport and the task's own code raise
        raise DataError(
            f"task {name} cannot be loaded: {reason_of(error)}", "check its data, the connection and HF_HUB_OFFLINE"
        ) from error
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def reason_of(error: BaseException) -> str:
    """Return the kind of an error and its first line."""
    return f"{type(error).__name__}: {first_line(error)[:300]}"


def task_scores(found: dict[str, Any]) -> tuple[TaskScore, ...]:
    """Return lm-eval's results, a table of tables with keys such as "acc,none" and "acc_stderr,none", as a list."""
    scores = []
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, comma, taken = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            samples, version = found["n-samples"].get(task), found["versions"].get(task)
            scores.append(
                TaskScore(
                    task=task,
                    metric=metric,
                    filter=taken,
                    value=number(value),
                    stderr=number(values.get(f"{metric}_stderr,{taken}")),
                    num_fewshot=found["n-shot"].get(task),
                    samples=samples["effective"] if samples else None,
                    version=None if version in (None, "N/A") else str(version),
                )
            )
    return tuple(scores)


def number(value: Any) -> float | None:
    """Return a value of lm-eval's table if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None
