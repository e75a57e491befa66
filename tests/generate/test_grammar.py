"""Texts drawn under grammars against other validators: jsonschema, `re`, and a parser of ours for the Lark grammar."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest
import tokenizers

from gptcli.errors import DataError, TokenizerError, UsageError
from gptcli.generate import grammar as grammar_module
from gptcli.generate.config import SamplingParams
from gptcli.generate.constraint import ANY_TEXT, NO_GRAMMAR, Constraint, GrammarText, mask_words
from gptcli.generate.engine import Engine
from gptcli.generate.grammar import Grammar, language
from gptcli.generate.sample import Sample
from gptcli.limited_process import ProcessLimits
from gptcli.models.gpt import GPT
from gptcli.tokenizer.config import BpeTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "scores": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"enum": ["red", "gr\u00fcn", 3, None]},
    {"anyOf": [{"type": "string", "pattern": "^[a-c]{2,5}$"}, {"type": "boolean"}]},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": ["integer", "null"], "maximum": 99},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
]
PATTERNS = [r"[a-f]{3,9}(-\d{2}){1,2}", r"(yes|no)( and (yes|no)){0,3}\.", r"[^x]{5,12}", r"\w{1,9}@\w{1,5}\.(com|org)"]
TEXT = (
    "It was a dark night, and nobody was on the road but an old man with 1234567890 sheep. "
    + json.dumps({"name": "a \\ b", "scores": [1.5, -2e3], "yes": True, "no": None, "x": False}, indent=2)
    + "abcdefghijklmnopqrstuvwxyz@-{}[]:,.\u00fc"
) * 3


def byte_fallback() -> Tokenizer:
    """As sentencepiece's for Llama: a word begins with a mark, and what the vocabulary lacks is written in bytes."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    steps = tokenizers.normalizers
    backend.normalizer = steps.Sequence([steps.Prepend("\u2581"), steps.Replace(" ", "\u2581")])
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    backend.train_from_iterator([TEXT], trainer)
    parts = tokenizers.decoders
    backend.decoder = parts.Sequence(
        [parts.Replace("\u2581", " "), parts.ByteFallback(), parts.Fuse(), parts.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def unigram() -> Tokenizer:
    """A vocabulary with <unk>, whose decoder drops the space before the first word."""
    pieces = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("\u2581", -2.0),
        ("\u2581was", -3.0),
        *((c, -4.0) for c in sorted(set(TEXT))),
    ]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend, {"eos_token": "</s>", "unk_token": "<unk>"})


def trained(config: Any) -> Tokenizer:
    return build_tokenizer(config, lambda: iter([TEXT]))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "char": lambda: trained(CharTokenizerConfig()),
    "bpe": lambda: trained(BpeTokenizerConfig(vocab_size=400)).with_special_tokens(["<|im_end|>"]),
    "byte fallback": byte_fallback,
    "unigram": unigram,
}


@pytest.fixture(scope="session")
def of_kind(tokenizer: Tokenizer) -> dict[str, Tokenizer]:
    return {"byte": tokenizer, **{name: make() for name, make in KINDS.items()}}


@pytest.fixture
def with_trials() -> None:
    """Asks for the trial in another process."""


@pytest.fixture(autouse=True)
def no_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the trial in another process, which takes most of the time, where it is not what is tested."""
    if "with_trials" not in request.fixturenames:
        monkeypatch.setattr(grammar_module, "run", lambda *arguments: b"")


def source(given: dict[str, Any] | str) -> GrammarText:
    if isinstance(given, str):
        return GrammarText("regex", given, "--regex")
    return GrammarText("json_schema", json.dumps(given), "the schema")


def is_valid(text: str, given: dict[str, Any] | str) -> bool:
    if isinstance(given, str):
        return re.fullmatch(given, text) is not None
    try:
        jsonschema.validate(json.loads(text), given)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def allowed(constraint: Constraint, vocab_size: int) -> np.ndarray:
    row = np.empty(mask_words(vocab_size), dtype=np.int32)
    constraint.mask_into(row)
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), count=vocab_size, bitorder="little"))


def drawn(grammar: Grammar, tokenizer: Tokenizer, choose: random.Random, most: int = 150) -> Sample:
    """A text of which each token is any of those allowed, which is what a model of infinite temperature writes."""
    stop_ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    params = SamplingParams(max_new_tokens=most)
    sample = Sample(
        tokenizer, tokenizer.framing.before or [3], params, stop_ids=stop_ids, constraint=grammar.constraint()
    )
    while sample.request.finish_reason is None:
        ids = allowed(sample.request.constraint, tokenizer.vocab_size + 70)  # a padded vocabulary
        ends = [id for id in ids if id in stop_ids]
        sample.request.append(choose.choice(ends) if ends and choose.random() < 0.3 else int(choose.choice(ids)), 0.0)
    return sample


@pytest.mark.parametrize("given", [*SCHEMAS, *PATTERNS], ids=lambda given: str(given)[:24])
@pytest.mark.parametrize("kind", ["byte", *KINDS])
def test_every_text_that_ends_is_valid(of_kind: dict[str, Tokenizer], kind: str, given: dict[str, Any] | str) -> None:
    tokenizer, choose = of_kind[kind], random.Random(0)
    if kind == "unigram" and given == SCHEMAS[1]:
        given = {"enum": ["red", 3, None]}  # its vocabulary has no combined letters
    grammar = Grammar(source(given), tokenizer)
    whole = 0
    for _ in range(12):
        sample = drawn(grammar, tokenizer, choose)
        completion = sample.completion()
        assert completion.is_whole or completion.finish_reason == "length"
        if completion.is_whole:
            whole += 1
            assert is_valid(completion.text, given), completion.text
        elif isinstance(given, dict):
            assert not is_valid(completion.text, given), "a text that is whole was called cut"
    assert whole >= 6


def test_whitespace_is_bounded(tokenizer: Tokenizer) -> None:
    constraint = Grammar(source(PERSON), tokenizer).constraint()
    for byte in b"{\n" + b" " * 16:
        constraint.accept(byte)
    assert allowed(constraint, 257).tolist() == [ord('"')]


def test_a_schema_cannot_loosen_its_own_rules(tokenizer: Tokenizer) -> None:
    loose = {"uniqueItems": True, "type": "array", "x-guidance": {"lenient": True, "whitespace_pattern": " *"}}
    with pytest.raises(DataError, match=r"the schema is not possible: .*uniqueItems"):
        Grammar(source(loose), tokenizer)


def test_a_text_ends_only_where_it_is_complete(tokenizer: Tokenizer) -> None:
    constraint, end = Grammar(source("ab*"), tokenizer).constraint(), tokenizer.eos_id
    constraint.end_with([end])
    assert allowed(constraint, 257).tolist() == [ord("a")] and not constraint.is_satisfied
    constraint.accept(ord("a"))
    assert allowed(constraint, 257).tolist() == [ord("b"), end] and constraint.is_satisfied
    assert not constraint.is_complete


def test_without_a_token_that_ends_a_text_it_ends_where_nothing_may_follow(tokenizer: Tokenizer) -> None:
    constraint = Grammar(source("ab?"), tokenizer).constraint()
    constraint.accept(ord("a"))
    assert allowed(constraint, 257).tolist() == [ord("b")] and not constraint.is_complete
    constraint.accept(ord("b"))
    assert constraint.is_complete


def test_special_and_unknown_tokens_are_never_allowed(of_kind: dict[str, Tokenizer]) -> None:
    for kind in ("bpe", "byte fallback", "unigram"):
        tokenizer = of_kind[kind]
        ids = set(allowed(Grammar(source("[^x]+"), tokenizer).constraint(), tokenizer.vocab_size + 9).tolist())
        assert ids and not ids & {*tokenizer.special_ids, tokenizer.unk_id, tokenizer.vocab_size}


def test_requests_of_one_grammar_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    grammar = Grammar(source("ab|cd"), tokenizer)
    first, second = grammar.constraint(), grammar.constraint()
    first.accept(ord("a"))
    assert allowed(first, 257).tolist() == [ord("b")]
    assert allowed(second, 257).tolist() == [ord("a"), ord("c")]


def test_a_lark_grammar_is_followed(tokenizer: Tokenizer) -> None:
    lark = 'start: sum\nsum: NUMBER ("+" sum)?\nNUMBER: /[0-9]{1,3}/\n'
    grammar = Grammar(GrammarText("lark", lark, "the grammar"), tokenizer)
    for seed in range(20):
        completion = drawn(grammar, tokenizer, random.Random(seed), 40).completion()
        assert not completion.is_whole or re.fullmatch(r"\d{1,3}(\+\d{1,3})*", completion.text)


def test_no_grammar_allows_everything(tokenizer: Tokenizer) -> None:
    assert language(NO_GRAMMAR, tokenizer) is ANY_TEXT
    assert ANY_TEXT.constraint().is_free and len(allowed(ANY_TEXT.constraint(), 70)) == 70


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", "{", "the it is not JSON: "),
        ("json_schema", "[1]", "the it is not a JSON object; write a schema such as"),
        ("json_schema", '{"type": "objec"}', "the it is not possible: Invalid type: objec; use the keywords"),
        ("json_schema", '{"not": {}}', "Unimplemented keys"),
        ("json_schema", '{"type": "object", "minProperties": 2}', "asks for 2 properties and names 0"),
        ("json_schema", '{"$ref": "https://example.org/s.json"}', "the it is not possible: "),
        ("json_schema", '{"items":' * 5000 + "{}" + "}" * 5000, "the it is not JSON: "),
        ("json_schema", json.dumps({"enum": ["x" * 300_000]}), "at most 262,144 are possible; make it shorter"),
        ("json_schema", '{"$ref": "#"}', "the it allows no text"),
        ("lark", "start: start", "the it allows no text"),
        ("regex", "(", "the it is not possible: unclosed group; use the syntax of Rust's regex"),
        ("regex", "(?=a)b", "look-around"),
        ("lark", 'start: "a" b', 'unknown name: "b"; use the syntax of Lark'),
        ("lark", "start: a\na: a", "allows no text"),
        ("lark", "start: " + "(" * 9999 + '"a"' + ")" * 9999, "the it is too complex: "),
    ],
)
def test_a_wrong_grammar_is_one_clear_line(tokenizer: Tokenizer, kind: Any, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Grammar(GrammarText(kind, text, "the it"), tokenizer)
    line = str(caught.value)
    assert message in line and "\n" not in line and len(line) < 400


@pytest.mark.slow
@pytest.mark.usefixtures("with_trials")
def test_a_grammar_that_takes_too_long_is_refused_in_time(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "TRIAL", ProcessLimits(memory_bytes=2**30, cpu_seconds=1))
    text = json.dumps({"type": "integer", "multipleOf": 99_999_989})
    with pytest.raises(DataError, match="the it cannot be compiled: it takes too much time"):
        Grammar(GrammarText("json_schema", text, "the it"), tokenizer)


@pytest.mark.usefixtures("with_trials")
def test_a_grammar_is_tried_in_another_process_first(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the it is not possible: unclosed group"):
        grammar_module.require_compilable(GrammarText("regex", "(", "the it"))
    grammar_module.require_compilable(source(PERSON))
    monkeypatch.setattr(grammar_module, "run", lambda *arguments: b"too large")
    with pytest.raises(DataError, match="the schema is too complex: too large"):
        Grammar(source(PERSON), tokenizer)


def test_without_the_library_the_command_that_installs_it_is_named(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(UsageError, match="a grammar needs llguidance, which is not installed; pip install llguidance"):
        Grammar(source("a"), tokenizer)


def test_tokens_without_a_text_of_their_own_are_refused() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = tokenizers.decoders.WordPiece(cleanup=True)
    with pytest.raises(TokenizerError, match="tokens have no text of their own"):
        Grammar(source("a+"), Tokenizer(backend, {}))


@pytest.mark.parametrize("speculate", [0, 4])
def test_a_model_writes_valid_texts_beside_free_ones(
    make_model: Callable[..., GPT], tokenizer: Tokenizer, speculate: int
) -> None:
    """At a temperature of 1.5, and with drafts for the rows without a grammar; each is what it is alone."""
    from gptcli.generate.config import EngineConfig

    model = make_model(vocab_size=tokenizer.vocab_size + 40, context_length=64)
    languages = [Grammar(source(PERSON), tokenizer), ANY_TEXT, Grammar(source(PATTERNS[0]), tokenizer)]

    def samples(numbers: Sequence[int]) -> list[Sample]:
        return [
            Sample(
                tokenizer,
                tokenizer.encode("It is it is it is"),
                SamplingParams(max_new_tokens=100, temperature=1.5 if number % 3 != 1 else 0.0, seed=number),
                stop_ids=[tokenizer.eos_id],
                constraint=languages[number % 3].constraint(),
            )
            for number in numbers
        ]

    together = samples(range(9))
    for _ in Engine(model, EngineConfig(speculate=speculate)).run([sample.request for sample in together]):
        pass
    for number, sample in enumerate(together):
        completion = sample.completion()
        if number % 3 != 1 and completion.is_whole:
            assert is_valid(completion.text, PERSON if number % 3 == 0 else PATTERNS[0])
        (alone,) = samples([number])
        for _ in Engine(model).run([alone.request]):
            pass
        assert alone.completion().tokens == completion.tokens
    assert sum(sample.completion().is_whole for sample in together) >= 7


@pytest.mark.slow
def test_hundreds_of_samples_of_a_model_are_valid(
    make_model: Callable[..., GPT], of_kind: dict[str, Tokenizer]
) -> None:
    tokenizer = of_kind["bpe"]
    model = make_model(vocab_size=tokenizer.vocab_size, context_length=128, n_layer=1)
    for given in (*SCHEMAS, PATTERNS[3]):
        grammar = Grammar(source(given), tokenizer)
        samples = [
            Sample(
                tokenizer,
                [1, 2, 3],
                SamplingParams(max_new_tokens=100, temperature=1.5, seed=seed),
                stop_ids=[tokenizer.eos_id],
                constraint=grammar.constraint(),
            )
            for seed in range(64)
        ]
        for _ in Engine(model).run([sample.request for sample in samples]):
            pass
        whole = [sample.completion() for sample in samples if sample.completion().is_whole]
        assert len(whole) >= 40 and all(is_valid(completion.text, given) for completion in whole)
