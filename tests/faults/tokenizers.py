"""Tokenizer files of others: named attacks, and valid files in which one or two nodes were changed at random, given to
every command that opens one. Each ends in a line or in a result, soon, and in little memory.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.nursery import Nursery
from faults.sizes import Case, Sizes, show_all
from faults.victim import make_corpus, train_command
from gptcli.manifest import MANIFEST_NAME
from gptcli.tokenizer.byte_level import CHARACTER_OF_BYTE
from gptcli.tokenizer.structure import LINE_SPLITS

Json = dict[str, Any]
TEXT = "line 12: the quick naïve 字 fox,\n\n  e\u0301 <|endoftext|> " + "a" * 40 + " " * 40

BYTES = {CHARACTER_OF_BYTE[byte]: byte for byte in range(256)}
WORDS = ("<unk>", "<s>", "</s>", "▁", " ", *"abcdefghijklmnopqrstuvwxyz0123456789:.,\n", "li", "ne", "▁li", "▁and")
PIECES = {piece: id for id, piece in enumerate(WORDS)}
TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def sequence(section: str, *parts: Json) -> Json:
    return {"type": "Sequence", section: list(parts)}


def replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: Json, behavior: str = "Isolated") -> Json:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def template(*names: str, described: Any = None) -> Json:
    single = [{"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}} for name in names]
    known = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single * 2,
        "special_tokens": known if described is None else described,
    }


def bpe(vocabulary: Json, merges: list[list[str]], **settings: Any) -> Json:
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **plain, **flags, "vocab": vocabulary, "merges": merges, **settings}


def spec(model: Json, **sections: Any) -> Json:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **empty, "model": model, **sections}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
PADDING = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
           "pad_token": "<unk>"}  # fmt: skip
VALID: dict[str, Json] = {
    "byte-level": spec(
        bpe({**BYTES, "li": 256, "ne": 257, "line": 258}, [["l", "i"], ["n", "e"], ["li", "ne"]]),
        added_tokens=[{"id": 259, "content": "<|endoftext|>", **TOKEN}],
        pre_tokenizer=sequence("pretokenizers", split({"Regex": LINE_SPLITS[0]}), BYTE_LEVEL),
        decoder=BYTE_LEVEL,
        post_processor=sequence("processors", BYTE_LEVEL, template("<s>", "A", described={
            "<s>": {"id": "<s>", "ids": [259], "tokens": ["<|endoftext|>"]}})),
    ),
    "sentencepiece": spec(
        bpe(PIECES, [["l", "i"], ["n", "e"], ["▁", "li"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        added_tokens=[{"id": 1, "content": "<s>", **TOKEN}, {"id": 2, "content": "</s>", **TOKEN}],
        normalizer=sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")),
        decoder=sequence("decoders", replace({"String": "▁"}, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        post_processor=template("<s>", "A"),
        padding=PADDING,
    ),
    "unigram": spec(
        {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
         "vocab": [[word, -float(id)] for word, id in PIECES.items()]},
        normalizer=sequence("normalizers", {"type": "NFKC"}, replace({"Regex": " {2,}"}, " ")),
        pre_tokenizer=sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE),
        decoder=METASPACE,
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    ),
    "wordpiece": spec(
        {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
         "vocab": {**PIECES, "##ne": 70, "##i": 71}},
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                    "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        post_processor={"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
    ),
    "many parts": spec(
        {"type": "WordLevel", "unk_token": "<unk>", "vocab": PIECES},
        added_tokens=[{"id": 1, "content": "<s>", **TOKEN, "lstrip": True}],
        normalizer=sequence("normalizers", {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
                            {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Nmt"}),
        pre_tokenizer=sequence("pretokenizers", {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True},
                               {"type": "Punctuation", "behavior": "Isolated"}, {"type": "UnicodeScripts"},
                               {"type": "CharDelimiterSplit", "delimiter": "x"}, {"type": "FixedLength", "length": 1}),
        decoder={"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "▁", "cleanup": True},
    ),
}  # fmt: skip
"""A tokenizer of each kind that models have."""

EXPONENTIAL = ("(a+)+$", "(a|a)*$", "(a?){30}a{30}$", r"(\w+\s?)+:", "(?=(a+)+$)", r"(a*)*\1$")
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**31, 2**32 - 1, 2**53, 10**30, -(10**18), "", " ", "x", "\u0000", "字" * 3000,
    "x" * 10**6,
    "\ud800", [], [[]], {}, {"type": "Sequence"}, {"type": "ByteLevel"}, {"Regex": "(a+)+$"}, {"Regex": ""},
    {"String": ""}, {"Regex": "["}, [["a"]], [0] * 1000, {str(n): n for n in range(2000)}, "<unk>", "<s>",
)  # fmt: skip


def attacks() -> Iterator[tuple[str, Json]]:
    """Named tokenizers that are known to grow, to hang, or to crash the library."""
    base = VALID["sentencepiece"] | {"normalizer": None}
    parts: dict[str, Json] = {
        "Replace of nothing": {"normalizer": replace({"String": ""}, "x")},
        "Replace by a megabyte": {"normalizer": replace({"String": "a"}, "x" * 10**6)},
        "24 doublings": {"normalizer": sequence("normalizers", *[replace({"String": "a"}, "aa")] * 24)},
        "a pattern that may be empty": {"normalizer": replace({"Regex": "q*"}, "x" * 1000)},
        "Prepend of a megabyte": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
        "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "cubic time": {"pre_tokenizer": split({"Regex": r"\s*\s*\S{2}"})},
        "cubic time on rare letters": {"pre_tokenizer": split({"Regex": r"a*a*\d{9}"})},
        "a decoder that strips": {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 10**9}},
        "a decoder that strips a little": {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 60}},
        "a decoder that replaces nothing": {"decoder": replace({"String": ""}, "x" * 10**6)},
        "no table": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        "a table that aborts": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "a table of 2 GB": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAgAAAAAAAAAAA"}},
        "a template without the text": {"post_processor": template("<s>")},
        "a template with the text 1000 times": {"post_processor": template(*"A" * 1000)},
        "a template with a second text": {"post_processor": template("B")},
        "a template without its token": {"post_processor": template("zz", "A")},
        "a template of thousands": {"post_processor": template(*["<s>"] * 5000, "A")},
        "a token of thousands": {"post_processor": template("<s>", "A", described={
            "<s>": {"id": "<s>", "ids": [1] * 10**5, "tokens": ["<s>"] * 10**5}})},
        "a post-processor with unknown ids": {"post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", 2**32 - 1], "cls": ["<s>", 10**9], "trim_offsets": True,
            "add_prefix_space": False}},
        "an added token of nothing": {"added_tokens": [{"id": 1, "content": "", **TOKEN}]},
        "an added token of blanks": {"added_tokens": [{"id": 44, "content": " ", **TOKEN, "lstrip": True}]},
        "an added token of a megabyte": {"added_tokens": [{"id": 44, "content": "x" * 10**6, **TOKEN}]},
        "a huge added id": {"added_tokens": [{"id": 2**32 - 1, "content": "zz", **TOKEN}]},
        "an added id twice": {"added_tokens": [{"id": 1, "content": name, **TOKEN} for name in ("zz", "z")]},
        "100,000 added tokens": {"added_tokens": [{"id": n + 99, "content": f"z{n}", **TOKEN} for n in range(10**5)]},
        "a huge id": {"model": bpe({"a": 0, "b": 2**32 - 1}, [])},
        "an id twice": {"model": bpe({"a": 0, "b": 0}, [])},
        "a gap between ids": {"model": bpe({"a": 0, "b": 10**7}, [])},
        "a vocabulary of 300,000": {"model": bpe({f"t{n}": n for n in range(300_000)}, [])},
        "a merge of unknown halves": {"model": bpe({"a": 0}, [["a", "b"]])},
        "merges without their prefix": {"model": bpe({"a": 0, "é": 1, "aé": 2}, [["a", "é"]],
                                                     continuing_subword_prefix="###")},
        "a suffix of a megabyte": {"model": bpe(PIECES, [], end_of_word_suffix="x" * 10**6)},
        "byte fallback with holes": {"model": bpe({"<0x61>": 0}, [], byte_fallback=True)},
        "an unknown token that is missing": {"model": bpe({"a": 0}, [], unk_token="zz")},
        "no vocabulary": {"model": bpe({}, [])},
        "words of any length": {"model": VALID["wordpiece"]["model"] | {"max_input_chars_per_word": 10**18}},
        "an unknown id out of range": {"model": VALID["unigram"]["model"] | {"unk_id": 10**9}},
        "scores that overflow": {"model": VALID["unigram"]["model"] | {"vocab": [["<unk>", 1e308], ["a", -1e308]]}},
        "padding to 2^31": {"padding": PADDING | {"strategy": {"Fixed": 2**31}}},
        "truncation to nothing": {"truncation": {"direction": "Left", "max_length": 0, "strategy": "OnlyFirst",
                                                 "stride": 9}},
    }  # fmt: skip
    for name, sections in parts.items():
        yield name, base | sections
    for pattern in EXPONENTIAL:
        yield f"split by {pattern}", base | {"pre_tokenizer": split({"Regex": pattern})}
        yield f"replace {pattern}", base | {"normalizer": replace({"Regex": pattern}, "x")}
    for section, children in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"),
                              ("decoder", "decoders"), ("post_processor", "processors")):  # fmt: skip
        for levels in (30, 120, 400):
            yield f"{levels} sequences of {children}", base | {section: deepened(BYTE_LEVEL, children, levels)}


def deepened(part: Any, children: str, levels: int) -> Any:
    for _ in range(levels):
        part = {"type": "Sequence", children: [part]}
    return part


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all nodes; of long tables and lists the first few entries."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [found for key in keys[:12] for found in [(*path, key), *nodes(value[key], (*path, key))]]


def mutated(source: Json, drawn: random.Random) -> Json:
    """`source` with one or two nodes replaced, removed, repeated, deepened, or exchanged."""
    made = copy.deepcopy(source)
    for _ in range(drawn.choice((1, 1, 2))):
        paths = nodes(made)
        if not paths:
            return made
        *parents, last = drawn.choice([path for path in paths if drawn.random() < 0.5] or paths)
        node = made
        for key in parents:
            node = node[key]
        match drawn.randrange(6):
            case 0 | 1:
                node[last] = copy.deepcopy(drawn.choice(NASTY))
            case 2:
                del node[last]
            case 3 if isinstance(node, list):
                node[last : last + 1] = [node[last]] * drawn.choice((2, 50, 2000))
            case 4:
                children = drawn.choice(("normalizers", "pretokenizers", "decoders", "processors"))
                node[last] = deepened(node[last], children, drawn.choice((1, 3, 9, 60)))
            case _:
                other = made
                for key in drawn.choice(paths):
                    if not isinstance(other, dict | list) or (isinstance(other, list) and key >= len(other)):
                        break
                    if isinstance(other, dict) and key not in other:
                        break
                    other = other[key]
                node[last] = copy.deepcopy(other)
    return made


def tokenizer_campaign(nursery: Nursery, folder: Path, trials: int, seed: int = 0) -> Sizes:
    """Give so many tokenizers, a quarter of them named attacks and the others mutated, alone or in a folder with their
    settings, to a command each; and those that are valid, which have to be accepted."""
    counts, corpus = Sizes(), make_corpus(folder)
    run = folder / "run"
    assert nursery.run(train_command(corpus, run, train__max_steps=10), folder).code == 0
    idle = nursery.run(["--version"], folder).peak_bytes
    kinds = {"valid": valid(), "attacks": shuffled(trials // 4, seed), "mutations": mutations(seed)}
    for kind, made in (kinds | {"folders": folders(trials // 8, seed)}).items():
        wanted = trials - trials // 4 - trials // 8 if kind == "mutations" else None
        waiting = list(itertools.islice(made, wanted))
        counts.trials[kind] = len(waiting)
        for first in range(0, len(waiting), 20):
            cases = []
            for number, (name, verb, content) in enumerate(waiting[first : first + 20], first):
                place = folder / kind / str(number)
                place.mkdir(parents=True)
                for file, values in (content if kind == "folders" else {"tokenizer.json": content}).items():
                    (place / file).write_text(values if file == "merges.txt" else json.dumps(values))
                codes = {"codes": frozenset({0})} if kind == "valid" else {}
                cases.append(Case(f"{kind} {number}: {name}, {verb}", command(verb, place, corpus, run), **codes))
            show_all(nursery, folder, cases, idle, counts)
            shutil.rmtree(folder / kind)
    return counts


Made = Iterator[tuple[str, str, Json]]
"""(name, verb, content) of tokenizers."""


def valid() -> Made:
    for name, content in VALID.items():
        yield from ((name, verb, content) for verb in ("encode", "inspect", "prepare"))


def shuffled(number: int, seed: int) -> Made:
    """Attacks in a random order, each with another command when it comes again."""
    drawn, named = random.Random(seed), list(attacks())
    drawn.shuffle(named)
    for count in range(min(number, len(named) * len(COMMANDS))):
        name, content = named[count % len(named)]
        yield name, COMMANDS[(count + count // len(named)) % len(COMMANDS)], content


def mutations(seed: int) -> Made:
    for number in itertools.count():
        name = list(VALID)[number // len(COMMANDS) % len(VALID)]
        yield name, COMMANDS[number % len(COMMANDS)], mutated(VALID[name], random.Random(f"{seed}/{number}"))


SETTINGS: Json = {
    "tokenizer_class": "GPT2Tokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": {"content": "</s>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False},
    "added_tokens_decoder": {"259": {"content": "<|endoftext|>", "special": True}, "260": {"content": "</s>"}},
    "extra_special_tokens": ["<x>"],
    "add_prefix_space": False,
    "document_framing": {"begin_token": "<|endoftext|>", "end_token": None},
    "chat_template": "{{ messages }}",
}
MERGES = ("#version: 0.2\nl i\nn e\nli ne\n",) * 3 + ("", "l i i\n", "zz y\n", "\x00\n", "l i\n" * 1000)


def folders(number: int, seed: int) -> Made:
    """Folders with vocab.json and merges.txt, or with a tokenizer.json, beside settings; some of it is mutated."""
    vocabulary = VALID["byte-level"]["model"]["vocab"]
    for count in range(number):
        drawn = random.Random(f"{seed}/folder/{count}")
        older = {"special_tokens_map.json": {"bos_token": "<s>"}, "config.json": {"model_type": "gpt2"}}
        made = {"tokenizer_config.json": SETTINGS, "vocab.json": vocabulary, **older}
        if count % 3 == 0:
            made = {"tokenizer_config.json": SETTINGS, "tokenizer.json": VALID["byte-level"]}
        chosen = drawn.choice(["tokenizer_config.json", *made])
        made[chosen] = mutated({"x": made[chosen]}, drawn).get("x", [])
        yield f"a folder with another {chosen}", "folder", {**made, "merges.txt": drawn.choice(MERGES)}


COMMANDS = ("encode", "inspect", "train", "prepare", "generate", "import")


def command(verb: str, place: Path, corpus: Path, run: Path) -> list[Any]:
    """The command that opens place/tokenizer.json."""
    file = place / "tokenizer.json"
    match verb:
        case "folder":
            return ["tokenizer", "inspect", place, "--text", TEXT]
        case "encode":
            return ["tokenizer", "encode", file, TEXT, "--json"]
        case "inspect":
            return ["tokenizer", "inspect", file, "--text", TEXT]
        case "train" | "prepare":
            chosen = ["--set", "data.tokenizer.name=file", "--set", f"data.tokenizer.path={file}"]
            of_train = ["train", corpus, "--dry-run", "--out", place / "out", "--set=train.max_steps=3"]
            return [*(of_train if verb == "train" else ["data", "prepare", corpus]), *chosen]
        case "generate":
            hidden = shutil.ignore_patterns("run.toml", "checkpoints", "tokenizer*", "val", MANIFEST_NAME)
            shutil.copytree(run, place / "model", ignore=hidden)
            file.rename(place / "model" / "tokenizer.json")
            return ["generate", place / "model", "line 1", "--max-new-tokens", 3]
    shutil.copytree(run, place / "model", ignore=shutil.ignore_patterns("run.toml", "checkpoints", MANIFEST_NAME))
    return ["import", place / "model", "--tokenizer", file, "--out", place / "imported"]
