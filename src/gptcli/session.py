"""Models that are loaded from a path to run them, in `gptcli generate`, `gptcli eval` and other commands."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import read_toml
from gptcli.console import say, shell_word
from gptcli.data.chat import OF_MODEL
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.data.config import LossOn
from gptcli.data.example_forms import ChatExample
from gptcli.errors import UsageError
from gptcli.generate.config import ENGINE_DEFAULTS, EngineConfig, GenerationConfig
from gptcli.generate.constraint import NO_GRAMMAR, GrammarText
from gptcli.generate.engine import Engine
from gptcli.generate.grammar import language
from gptcli.generate.listener import SILENT, Listener
from gptcli.generate.sample import SampleMaker
from gptcli.generate.step import decoding_step
from gptcli.generate.text import Generation, Prompt, complete, encode_prompts, place, represented
from gptcli.interop.load import LoadedModel, load_model
from gptcli.manifest import require_unchanged
from gptcli.models.inference import Quantization, for_generation, quantized
from gptcli.nn.device import AUTOCAST_DTYPES, resolve_device
from gptcli.storage import default_cache_dir


@dataclass(frozen=True)
class ModelRequest:
    """A model as the user names it, and how to run it.

    Attributes:
        path: a run, a Hugging Face model directory, or hf:NAME.
        checkpoint: which checkpoint of a run: `best`, `last` or a step.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: what the weights are converted to.
        quantize: how the matrices are quantized; None leaves them in `precision`.
        compile: whether decoding steps are compiled.
        merge: whether an adapter is added to the matrices of its base; otherwise it stands beside them,
            in fp32 on the CPU.
    """

    path: str
    checkpoint: str = "best"
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantize: Quantization | None = None
    compile: bool = False
    merge: bool = True


@dataclass(frozen=True)
class Session(LoadedModel):
    """A model that is ready to run, its tokenizer, and what it is."""

    request: ModelRequest = field(kw_only=True)

    def chat_encoder(self, loss_on: LossOn = "assistant") -> ChatEncoder:
        """Return an encoder of conversations by the model's own chat template; it is a context manager.

        Its `stop_ids` are those of the template and of the session.

        Raises:
            UsageError: the model has no chat template.
            DataError: the template cannot be compiled or rendered.
        """
        if self.tokenizer.chat_template is None:
            raise UsageError(
                f"{self.request.path} has no chat template, so it reads no conversations",
                f"fine-tune it on some: gptcli finetune {shell_word(self.request.path)} chats.jsonl",
            )
        template = ChatTemplate.of_model(self.tokenizer, OF_MODEL)
        encoder = ChatEncoder(template, self.tokenizer, loss_on=loss_on, date=chat_date(self.run))
        encoder.stop_ids |= self.stop_ids
        return encoder

    def generate(
        self,
        prompts: Sequence[str],
        config: GenerationConfig,
        listener: Listener = SILENT,
        grammar: GrammarText = NO_GRAMMAR,
    ) -> Generation:
        """Generate `config.num_samples` texts for each prompt; `listener` receives them as they grow.

        Each text matches `grammar`.

        Raises:
            UsageError: a part that torch.compile needs is missing.
            DataError, CheckpointError, OutOfMemoryError: as `encode_prompts` and `complete`.
        """
        encoded = encode_prompts(self.tokenizer, prompts, config)
        return self.complete(encoded, config, self.stop_ids, listener, grammar)

    def chat(
        self,
        conversations: Sequence[ChatExample],
        config: GenerationConfig,
        listener: Listener = SILENT,
        grammar: GrammarText = NO_GRAMMAR,
    ) -> Generation:
        """Generate `config.num_samples` answers to each conversation; `listener` receives them as they grow.

        Each answer matches `grammar`.

        Raises:
            UsageError: the model has no chat template, or a part that torch.compile needs is missing.
            DataError, CheckpointError, OutOfMemoryError: as `ChatEncoder.prompt` and `complete`.
        """
        with self.chat_encoder() as encoder:
            prompts = [
                self.chat_prompt(encoder, conversation, place(number, conversations))
                for number, conversation in enumerate(conversations)
            ]
            return self.complete(prompts, config, encoder.stop_ids, listener, grammar)

    def chat_prompt(self, encoder: ChatEncoder, conversation: ChatExample, name: str) -> Prompt:
        """Return the ids of a conversation up to where the assistant is to write; `name` stands for it in errors.

        Raises:
            DataError: the template fails on the conversation, or the tokenizer cannot represent it.
        """
        messages, tools = conversation
        ids = encoder.prompt(messages, name, tools)
        if self.tokenizer.unk_id in ids:
            for message in messages:
                represented(self.tokenizer, message["content"], name)
        return Prompt(ids, messages)

    def complete(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        stop_ids: Collection[int],
        listener: Listener = SILENT,
        grammar: GrammarText = NO_GRAMMAR,
    ) -> Generation:
        """Generate `config.num_samples` texts for each encoded prompt, each up to one of `stop_ids`.

        Raises:
            UsageError: a part that torch.compile or a grammar needs is missing.
            DataError, CheckpointError, OutOfMemoryError: as `gptcli.generate.grammar.language` and
                `gptcli.generate.text.complete`.
        """
        engine = self.engine(config.engine_config([ids for ids, _ in prompts]))
        maker = SampleMaker(self.tokenizer, config, stop_ids, language(grammar, self.tokenizer))
        return complete(engine, maker, prompts, listener)

    def engine(self, config: EngineConfig = ENGINE_DEFAULTS) -> Engine:
        """Return an engine for requests to the model, with the matrices and the step that are fastest for its rows.

        Raises:
            UsageError: a part that torch.compile needs is missing.
            OutOfMemoryError: not even one sample fits on the device.
        """
        model = self.model if self.request.quantize else for_generation(self.model, config.rows)
        return Engine(model, config, decoding_step(model, default_cache_dir() if self.request.compile else None))


def data_settings(run: RunDirectory | None) -> dict[str, Any]:
    """Return the section `data` of a run's configuration; empty without a run."""
    if run is None:
        return {}
    require_unchanged(run.path, run.config_path.name)
    values = read_toml(run.config_path).values.get("data", {})
    return values if isinstance(values, dict) else {}


def chat_date(run: RunDirectory | None) -> str | None:
    """Return the date that chat templates get as today's: that of a run's training, or today for another model."""
    if run is None:
        return datetime.date.today().isoformat()
    date = data_settings(run).get("chat_date")
    return date if isinstance(date, str) else None


def open_session(request: ModelRequest) -> Session:
    """Load the model and say on stderr what it is and how it runs.

    Raises:
        UsageError: the device or the checkpoint is unknown or missing.
        CheckpointError, TokenizerError, StorageError: the model cannot be read.
    """
    device, dtype = resolve_device(request.device), AUTOCAST_DTYPES.get(request.precision, torch.float32)
    loaded = load_model(request.path, device=device, dtype=dtype, checkpoint=request.checkpoint, merge=request.merge)
    numbers = request.quantize or request.precision
    say(f"{loaded.source}, on {device} in {numbers}{', compiled' if request.compile else ''}")
    model, source = loaded.model, loaded.source
    if request.quantize:
        model, source = quantized(model, request.quantize), f"{source}, quantized to {request.quantize}"
    found = {one.name: getattr(loaded, one.name) for one in fields(loaded)} | {"model": model, "source": source}
    return Session(**found, request=request)
