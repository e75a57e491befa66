"""The faster encoders give the ids of the `tokenizers` library, whatever the text."""

from __future__ import annotations

import gettext
import itertools
import json
import pickle
import random
import subprocess
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gptcli.errors import TokenizerError
from gptcli.tokenizer import encode as module
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.tokenizer.encode import BackendEncoder, TableEncoder, WordEncoder, encoder_for
from gptcli.tokenizer.structure import LINE_SPLITS
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer
from own_peak import PEAK

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'ſ", "'lL", "'r", "'v", "'l", "'", "’s")
BLANKS = (" ", "  ", "\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000 ", "\x85", "\u2028", "\x1c", "\u200b", "")
NEIGHBOURS = ("a", "Z", "é", "中", "1", "٣", "½", "!", "'", "_", "…", "🙂", "\u0301", "\x00", "")


def splitter_of(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained_with(splitter: pre_tokenizers.PreTokenizer, texts: list[str]) -> Tokenizer:
    """A byte-level BPE as others make them."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=ALPHABET, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def varied(random_text: Callable[..., str], hard_texts: tuple[str, ...], prose: tuple[str, ...]) -> list[str]:
    """More than a megabyte: all that is hard, words and numbers of all lengths, blanks and contractions everywhere."""
    source = random.Random(7)
    letters = "".join(map(chr, (*range(97, 123), *range(0x430, 0x450), *range(0x4E00, 0x4E40))))
    long_words = ["".join(source.choices(letters, k=k)) for k in (15, 16, 17, 31, 32, 33, 99, 100, 255, 256, 5000)]
    digits = ["".join(source.choices("0123456789", k=source.randrange(1, 40))) for _ in range(5000)]
    around = itertools.product(NEIGHBOURS, BLANKS, CONTRACTIONS, NEIGHBOURS)
    return [
        *hard_texts,
        *prose,
        *(random_text(seed, 400) for seed in range(600)),
        *("".join(parts) for parts in itertools.product(NEIGHBOURS, CONTRACTIONS, CONTRACTIONS, NEIGHBOURS)),
        "".join("".join(parts) for parts in around),
        " ".join(long_words) + "".join(long_words),
        " ".join(digits) + ",".join(digits) + "".join(digits),
        "a" * 70_000 + " " * 70_000 + "\n" * 70_000 + "x",
        " ".join(random_text(seed) for seed in range(400)),
    ]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("merges ignored", *LINE_SPLITS[1:])]


@pytest.fixture(scope="module", params=["gpt2", "learnt here", LINE_SPLITS[0], *SLOW])
def words(request: pytest.FixtureRequest, varied: list[str]) -> Tokenizer:
    """Byte-level tokenizers that split by words, each ready to use gigatoken."""
    texts = varied[::3]
    match request.param:
        case "gpt2":
            tokenizer = load_tokenizer(request.getfixturevalue("shared") / "tokenizers" / "gpt2")
        case "learnt here":
            tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=3000), lambda: iter(texts))
        case "merges ignored":
            trained = trained_with(pre_tokenizers.ByteLevel(add_prefix_space=False), texts)
            spec = json.loads(trained.backend.to_str())
            spec["model"]["ignore_merges"] = True
            spec["model"]["vocab"] |= {"Ġmiller": 2000, "daugh": 2001, "aaa": 2002, "Ċ": 2003}
            tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))
        case pattern:
            tokenizer = trained_with(splitter_of(pattern), texts)
    tokenizer.encoder.characters_left = 0
    return tokenizer


def backend_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)]


def assert_same_ids(tokenizer: Tokenizer, texts: list[str]) -> None:
    for text, ids, expected in zip(texts, tokenizer.encode_batch(texts), backend_ids(tokenizer, texts), strict=True):
        assert ids.dtype == np.uint32
        assert ids.tolist() == expected, repr(text[:200])


@pytest.mark.slow
def test_words_have_the_ids_of_the_library_in_varied_text(words: Tokenizer, varied: list[str]) -> None:
    assert isinstance(words.encoder, WordEncoder)
    assert sum(len(text.encode()) for text in varied) > 1_000_000
    assert_same_ids(words, varied)
    assert words.encoder.fast is not None
    assert_same_ids(words, ["<|endoftext|> said<|endoftext|>", ""])
    sent = pickle.loads(pickle.dumps(words))  # as the first rank sends it to the others
    assert sent.encoder.fast is None and sent.fingerprint == words.fingerprint
    assert_same_ids(sent, varied[:3])
    assert sent.encoder.fast is not None


@pytest.mark.parametrize("step", [211, pytest.param(29, marks=pytest.mark.slow)])
def test_every_character_has_the_ids_of_the_library(words: Tokenizer, step: int) -> None:
    """Between letters, digits and signs, after blanks and in contractions; those that are split alike, by gigatoken."""
    codes = (*range(0x600), *range(0x600, 0x110000, step))
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    alike = [character for character in characters if words.encoder.comparison.are_split_alike(character)]
    assert set(characters[:0x600]) <= set(alike) and len(alike) > 0.95 * len(characters)
    for group in (alike, sorted(set(characters) - set(alike))):
        around = [f"a{each}b1{each}2!{each}? {each} '{each}x\t{each}{each}\n{each}\r\n" for each in group]
        assert_same_ids(words, ["".join(around[start : start + 500]) for start in range(0, len(around), 500)])


def test_characters_that_are_split_otherwise_are_those_that_one_library_does_not_know(words: Tokenizer) -> None:
    """Unicode never moves a character that it has assigned between letters, digits, white space and the rest."""
    ask = words.encoder.comparison.are_split_alike
    source = random.Random(3)
    assigned = [code for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    assert all(ask(chr(code)) for code in source.sample(assigned, 3000))


def test_text_that_is_split_otherwise_goes_to_the_library(words: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if gigatoken took every letter beyond ASCII for a sign."""
    monkeypatch.setattr(module, "is_split_alike", lambda character: character.isascii())
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 40)
    tokenizer = Tokenizer(words.backend)
    tokenizer.encoder.characters_left = 0
    text = "plain words come first, then süße Wörter, then plain words again, as many as were there at first"
    assert_same_ids(tokenizer, [text * 3])
    seen: list[bytes] = []

    class Recorder:
        def encode(self, data: bytes) -> np.ndarray:
            seen.append(data)
            return np.zeros(1, np.uint32)

    tokenizer.encoder.fast = Recorder()
    tokenizer.encode(text * 3)
    assert seen and all(data.isascii() for data in seen)


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_where_the_pieces_end_changes_no_id(
    words: Tokenizer, hard_texts: tuple, random_text: Callable[..., str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_CHARACTERS", size)
    assert_same_ids(
        words, [*hard_texts, " ".join(random_text(seed) for seed in range(40)), "\n".join(CONTRACTIONS * 9)]
    )


def test_gigatoken_is_loaded_when_there_is_enough_text_to_pay_for_it(bpe: Tokenizer) -> None:
    tokenizer = Tokenizer(bpe.backend)
    line = "the miller said "
    for _ in range(10 * tokenizer.vocab_size // len(line) - 1):
        tokenizer.encode(line)
    assert tokenizer.encoder.fast is None
    assert tokenizer.encode(line * 3) == bpe.backend.encode(line * 3).ids
    assert tokenizer.encoder.fast is not None


def test_without_gigatoken_the_ids_are_the_same(
    bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    tokenizer = Tokenizer(bpe.backend)
    text = "the miller's daughter " * 1000
    assert tokenizer.encode(text) == tokenizer.encode(text) == bpe.backend.encode(text).ids
    assert capsys.readouterr().err.count("pip install gigatoken") == 1


def test_gigatoken_is_not_used_where_its_ids_are_wrong(
    bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Broken:
        def encode(self, data: bytes) -> np.ndarray:
            return np.frombuffer(data, np.uint8).astype(np.uint32)

    monkeypatch.setattr(module, "load_gigatoken", lambda backend: Broken())
    tokenizer = Tokenizer(bpe.backend)
    text = "the miller's daughter " * 1000
    assert tokenizer.encode(text) == tokenizer.encode(text) == bpe.backend.encode(text).ids
    assert capsys.readouterr().err.count("is not used") == 1


def test_gigatoken_clears_its_cache_of_words(words: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_BYTES", 3000)
    assert_same_ids(words, ["first words " * 200])
    loaded = words.encoder.fast
    assert_same_ids(words, ["other words " * 200, "third words " * 200])
    assert words.encoder.fast is not loaded


def test_threads_may_share_a_tokenizer(words: Tokenizer, random_text: Callable[..., str]) -> None:
    texts = [random_text(seed) * 30 for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(words.encode, texts))
    assert results == backend_ids(words, texts)


@pytest.mark.slow
def test_memory_stays_bounded_however_many_words_there_are() -> None:
    """120 MB of random words of eight letters, of which gigatoken alone would remember 13 million."""
    code = (
        f"{PEAK}"
        "import numpy as np\n"
        "from gptcli.tokenizer import encode\n"
        "from gptcli.tokenizer.train import train_bpe\n"
        "tokenizer = train_bpe(iter(['a text ' * 9]), 300, 2)\n"
        "encode.CACHED_BYTES = 1 << 24\n"
        "source, peaks = np.random.default_rng(1), []\n"
        "for _ in range(12):\n"
        "    letters = source.integers(97, 123, 10_000_000, np.uint8)\n"
        "    letters[::9] = 32\n"
        "    tokenizer.encode_batch([letters.tobytes().decode()])\n"
        "    peaks.append(peak() / 1024)\n"
        "assert tokenizer.encoder.fast is not None\n"
        "print(peaks[-1] - peaks[4])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert float(done.stdout) < 150


def texts_of_this_machine() -> Iterator[str]:
    """Messages of the system's programs in all languages, Python's library, and the packages beside it, shuffled."""
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/share/locale")
    paths = sorted({path for folder in folders for path in Path(folder).rglob("*") if path.is_file()})
    random.Random(5).shuffle(paths)
    for path in paths:
        try:
            if path.suffix == ".mo":
                with path.open("rb") as file:
                    messages = gettext.GNUTranslations(file)._catalog.values()
                yield "\n".join(message for message in messages if isinstance(message, str))
            elif path.stat().st_size < 10_000_000:
                yield path.read_text(encoding="utf-8")
        except (OSError, ValueError, LookupError):
            continue


@pytest.mark.slow
def test_all_text_on_this_machine_has_the_ids_of_the_library(shared: Path) -> None:
    """Over 10 MB: source code, documents, tables, and prose in a hundred languages."""
    tokenizer = load_tokenizer(shared / "tokenizers" / "gpt2")
    compared = 0
    for text in texts_of_this_machine():
        (ids,), (expected,) = tokenizer.encode_batch([text]), tokenizer.encoder.plain.encode_batch([text])
        assert np.array_equal(ids, expected), text[:200]
        compared += len(text.encode())
        if compared > 11_000_000:
            break
    assert compared > 10_000_000 and tokenizer.encoder.fast is not None


@pytest.fixture(scope="module", params=["char", "byte", "other ids"])
def table(request: pytest.FixtureRequest, char: Tokenizer, byte: Tokenizer) -> Tokenizer:
    """Tokenizers without merges."""
    match request.param:
        case "char":
            return char
        case "byte":
            return byte
    vocabulary = {token: 7 * place for place, token in enumerate(["?", "any", "🙂", "a", "é", "\x00", "\uffff", " "])}
    return Tokenizer(tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="?")))


def test_tables_have_the_ids_of_the_library(table: Tokenizer, varied: list[str]) -> None:
    assert isinstance(table.encoder, TableEncoder)
    assert_same_ids(table, [*varied[:300], " any <unk>", "\U0010ffff\x7f", "", "a" * 200_000 + "é🙂" * 50_000])


def test_windows_and_pieces_of_the_library_change_no_id(
    words: Tokenizer, random_text: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long text among short ones, cut into pieces and spread over several windows."""
    long_text = " ".join(random_text(seed) for seed in range(400))
    texts = ["", "short", long_text, " ", "last"]
    monkeypatch.setattr(module, "WINDOW_CHARACTERS", 70_000)
    assert len(long_text) > 140_000
    assert [ids.tolist() for ids in words.encoder.plain.encode_batch(texts)] == backend_ids(words, texts)
    assert words.encoder.plain.encode_batch([]) == words.encode_batch([]) == []


def test_a_structure_that_is_not_known_is_left_to_the_library(varied: list[str]) -> None:
    byte_level, words = pre_tokenizers.ByteLevel, pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = {token: id for id, token in enumerate(ALPHABET)}
    letters = {letter: id for id, letter in enumerate("?abc")}
    for model, splitter, normalizer in (
        (models.BPE(vocabulary, []), byte_level(add_prefix_space=True), None),
        (models.BPE(vocabulary, []), pre_tokenizers.Whitespace(), None),
        (models.BPE(vocabulary, []), splitter_of(r"\p{L}+|\s"), None),
        (models.BPE(vocabulary, []), words, normalizers.Lowercase()),
        (models.BPE(vocabulary, [], ignore_merges=True), byte_level(add_prefix_space=False, use_regex=False), None),
        (models.BPE({**letters, "##a": 9}, [], unk_token="?", continuing_subword_prefix="##"), None, None),
        (models.BPE(letters, [], unk_token="?", fuse_unk=True), None, None),
        (models.BPE(letters, []), None, None),
        (models.BPE(letters, []), words, None),
        (models.WordLevel({"the": 0, "?": 1}, unk_token="?"), pre_tokenizers.Whitespace(), None),
        (models.Unigram([("?", 0.0), ("a", -1.0), ("the", -2.0)], unk_id=0), None, None),
    ):
        backend = tokenizers.Tokenizer(model)
        if splitter is not None:
            backend.pre_tokenizer = splitter
        if normalizer is not None:
            backend.normalizer = normalizer
        tokenizer = Tokenizer(backend)
        assert isinstance(encoder_for(backend, json.loads(backend.to_str())), BackendEncoder)
        assert_same_ids(tokenizer, ["the a b a abc", *varied[:60]])


def test_a_surrogate_is_one_clear_error_in_every_way(words: Tokenizer) -> None:
    for encoder in (words.encoder, words.encoder.plain):
        with pytest.raises(TokenizerError, match=r"surrogate U\+DC80"):
            encoder.encode_batch(["fine", "the \udc80"])
