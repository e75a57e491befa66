"""A sketch of a text recognises any excerpt of it, whatever its line breaks, and no other text."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from data_files import write_rows
from gptcli.data import sketch
from gptcli.data.config import DataConfig, DataSettings
from gptcli.data.inspect import prepare
from gptcli.data.permutation import mix
from gptcli.data.prepare import prepare_corpus, scan_corpus
from gptcli.data.sketch import SKETCH, SketchBuilder, TextSketch, passages
from gptcli.data.workspace import Workspace
from gptcli.errors import CheckpointError

SYLLABLES = ["ba", "cor", "del", "fi", "gun", "lö", "mu", "nar", "pe", "qui", "st", "語"]


def prose(seed: int, words: int = 3000) -> str:
    draw = random.Random(seed)
    text = " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(words))
    return "".join("\n" if letter == " " and draw.random() < 0.1 else letter for letter in text)


def sketch_of(*texts: str) -> TextSketch:
    builder = SketchBuilder(sum(len(text.encode()) for text in texts))
    builder.add(texts)
    return builder.merge()


def share(of: TextSketch, text: str) -> float:
    sampled, found = of.recognise([text])
    assert sampled[0] >= 16
    return found[0] / sampled[0]


@pytest.mark.parametrize("limit", [1 << 64, 3 << 60])
def test_the_hashes_are_those_of_the_definition(limit: int) -> None:
    text = prose(1, 400)
    content = bytes(byte for byte in text.encode() if byte > 32)
    expected = []
    for start in range(len(content) - 47):
        words = [int.from_bytes(content[at : at + 8], "little") for at in range(start, start + 48, 8)]
        key = words[0] * 0x9E3779B97F4A7C15 % 2**64
        if key >= 2**64 // 32:
            continue
        total = sum(word * int(factor) for word, factor in zip(words, sketch.FACTORS, strict=True)) % 2**64
        whole = int(mix(np.array([total], dtype=np.uint64))[0])
        expected.append((key * 32 >> 32 << 32) | whole >> 32)
    found = passages([text], limit)
    assert found.hashes.tolist() == [one for one in expected if one < limit] and len(found.hashes) > 5


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[5000:9000],
        lambda text: text[5001:9000].replace("\n", "\r\n"),
        lambda text: "\n".join(text[i : i + 37] for i in range(3000, 12000, 37)),
        lambda text: "    " + text[700:8000].replace(" ", "\t  "),
    ],
    ids=["an excerpt", "other line ends", "other line breaks", "other blanks"],
)
def test_an_excerpt_is_recognised_wherever_it_begins(change) -> None:
    text = prose(2)
    assert share(sketch_of(prose(3), text, prose(4)), change(text)) == 1


def test_text_of_the_same_words_is_not_recognised_and_half_of_a_text_is_half_recognised() -> None:
    known = sketch_of(*(prose(seed) for seed in range(5)))
    assert share(known, prose(9)) == 0
    assert share(known, prose(9) + prose(1)) == pytest.approx(0.5, abs=0.05)


def test_no_passage_lies_across_two_texts_or_is_made_of_too_little() -> None:
    text = prose(5)
    parts = [text[start : start + 300] for start in range(0, len(text), 300)]
    together = passages(parts)
    alone = [passages([part]).hashes for part in parts]
    assert together.hashes.tolist() == np.concatenate(alone).tolist()
    assert np.bincount(together.texts, minlength=len(parts)).tolist() == [len(one) for one in alone]
    assert len(passages([]).hashes) == len(passages(["", " \n", "x" * 47]).hashes) == 0


def test_a_sketch_is_bounded_and_the_same_in_any_order_and_still_estimates_the_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketch, "MAX_HASHES", 500)
    texts = [prose(seed) for seed in range(8)]
    sketches = []
    for order in (texts, texts[::-1]):
        builder = SketchBuilder(1)  # too low an estimate, so that every passage is sampled at first
        for text in order:
            builder.add([text])
        sketches.append(builder.merge())
    assert sketches[0].limit == sketches[1].limit < 1 << 64
    assert np.array_equal(sketches[0].hashes, sketches[1].hashes) and len(sketches[0].hashes) == 500
    assert share(sketches[0], "".join(texts[2:4])) == 1
    assert share(sketches[0], "".join([*texts[2:4], prose(20), prose(21)])) == pytest.approx(0.5, abs=0.12)
    estimated = sketch_of(*texts)
    assert len(estimated.hashes) <= 500 and share(estimated, "".join(texts)) > 0.99


def test_joined_sketches_know_both_texts() -> None:
    joined = TextSketch.joined([sketch_of(prose(1)), sketch_of(prose(2))])
    assert share(joined, prose(1)) == share(joined, prose(2)) == 1 and share(joined, prose(3)) == 0


@pytest.mark.parametrize("name", ["hashes.bin", "sketch.json"])
def test_a_sketch_is_read_as_it_was_written_or_named_as_damaged(tmp_path: Path, name: str) -> None:
    written = sketch_of(prose(1))
    written.save(tmp_path / SKETCH)
    read = TextSketch.open(tmp_path / SKETCH)
    assert read.limit == written.limit and np.array_equal(read.hashes, written.hashes)
    content = bytearray((tmp_path / SKETCH / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / SKETCH / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        TextSketch.open(tmp_path / SKETCH)


def test_a_missing_sketch_samples_nothing(tmp_path: Path) -> None:
    sampled, found = TextSketch.open(tmp_path / SKETCH).recognise([prose(1)])
    assert sampled.tolist() == found.tolist() == [0]


def rows(path: Path, texts: list[str]) -> str:
    write_rows(path, texts)
    return str(path)


def test_preparing_sketches_what_is_trained_on_and_nothing_else(tmp_path: Path) -> None:
    source = rows(tmp_path / "a.jsonl", [prose(seed, 400) for seed in range(30)])
    config = DataConfig.model_validate({"tokenizer": "byte"})
    scan = scan_corpus([source], Workspace(config, tmp_path / "cache"))
    prepared = prepare_corpus(scan, Workspace(config, tmp_path / "cache"))
    known = TextSketch.open(prepared.directory / SKETCH)
    assert share(known, "\n".join(scan.train_texts())) > 0.95  # but for passages across two documents
    assert share(known, "\n".join(scan.val_texts())) == 0


def test_a_mix_is_sketched_whole(tmp_path: Path) -> None:
    texts = [[prose(100 * number + seed, 400) for seed in range(12)] for number in range(2)]
    sources = [rows(tmp_path / f"{number}.jsonl", some) for number, some in enumerate(texts)]
    mix_of = tuple({"corpus": source, "weight": 1 + number} for number, source in enumerate(sources))
    settings = DataSettings.model_validate({"data": {"mix": mix_of, "tokenizer": "byte"}})
    known = TextSketch.open(Path(prepare(settings, tmp_path / "cache")["directory"]) / SKETCH)
    for some in texts:
        sampled, found = known.recognise(some)
        assert sorted({*(found / sampled)}) == [0, 1] and sum(found == sampled) >= 10
