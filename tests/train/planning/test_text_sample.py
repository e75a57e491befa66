"""What a sample tells: the bytes a token of tokenizers that are shorter forms of one, as if each had been learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.data.config import DataConfig
from gptcli.errors import DataError
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.planning.text_sample import TextSample, bytes_per_token, read_sample, tokenizer_facts


@pytest.fixture(scope="module")
def stories() -> str:
    return (Path(__file__).parents[3] / "data" / "stories.txt").read_text()[:400_000]


def facts_of(text: str, given: object = None, vocab_given: bool = False) -> dict[tuple[str, int], float]:
    found = tokenizer_facts(TextSample(text, 10**9, 0.0), given, vocab_given)
    assert all(fact.seconds_per_byte > 0 for fact in found)
    return {(fact.config.name, fact.vocab_size): fact.bytes_per_token for fact in found}


def test_a_shortened_vocabulary_encodes_as_one_that_was_learnt_at_that_size(stories: str) -> None:
    cut = len(stories) * 9 // 10
    found = facts_of(stories)
    for size in (512, 1024, 2048):
        learnt = build_tokenizer(BpeTokenizerConfig(vocab_size=size), lambda: iter([stories[:cut]]))
        assert found["bpe", size] == bytes_per_token(learnt, stories[cut:])


def test_larger_vocabularies_have_longer_tokens_and_characters_are_in_question_too(stories: str) -> None:
    found = facts_of(stories)
    lengths = [length for (name, _), length in sorted(found.items()) if name == "bpe"]
    assert lengths == sorted(lengths) and lengths[0] > 1.5
    assert [length for (name, _), length in found.items() if name == "char"] == pytest.approx([1.0], abs=0.01)


def test_a_short_text_gets_no_vocabulary_that_it_could_not_fill(stories: str) -> None:
    assert max(size for _, size in facts_of(stories[:40_000])) <= 1024


def test_three_bytes_of_a_chinese_character_are_one_token_of_the_character_tokenizer() -> None:
    text = "".join(chr(0x4E00 + (n * n) % 3001) for n in range(40_000))
    assert next(v for (name, _), v in facts_of(text).items() if name == "char") == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("given", "vocab_given", "expected"),
    [
        (ByteTokenizerConfig(), False, [("byte", 257)]),
        (CharTokenizerConfig(), False, [("char", None)]),
        (BpeTokenizerConfig(vocab_size=700), True, [("bpe", 700)]),
        (BpeTokenizerConfig(), False, [("bpe", 512), ("bpe", 1024), ("bpe", 2048)]),
    ],
)
def test_a_tokenizer_that_the_user_chose_is_the_only_kind_in_question(
    stories: str, given: object, vocab_given: bool, expected: list[tuple[str, int | None]]
) -> None:
    found = list(facts_of(stories, given, vocab_given))
    assert [
        (name, size if wanted[1] else None) for (name, size), wanted in zip(found, expected, strict=True)
    ] == expected


def test_a_sample_comes_from_many_files_and_knows_how_much_there_is(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"{number:02} is the number of this file. " * 300)
    sample = read_sample(DataConfig(corpus=(str(tmp_path),)), 32_000, tmp_path / "cache", seed=1)
    assert len({part.split()[0] for part in sample.text.split(". ") if part}) >= 14
    assert sample.bytes == pytest.approx(32_000, rel=0.1)
    assert sample.corpus_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.txt"))
    assert sample.reading_seconds_per_byte > 0


def test_a_corpus_without_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n" * 100)
    with pytest.raises(DataError, match=r"blank\.txt"):
        read_sample(DataConfig(corpus=(str(tmp_path / "blank.txt"),)), 1000, tmp_path / "cache", seed=1)
