"""The corpus of stories: the grammar derives each in one way only, and the floor is the exact entropy of the text."""

import bz2
import hashlib
import itertools
import json
import lzma
import math
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from command import gptcli
from stories import corpus
from stories.engine import Grammar, GrammarError, NotFromGrammarError
from stories.notation import parse_option, parse_parts

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_stories"
DATA = ROOT / "data"


@pytest.fixture(scope="module")
def shipped() -> list[str]:
    return corpus.read_documents((DATA / "stories.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def known_bits() -> dict[str, tuple[int, float]]:
    lines = (DATA / "stories.bits.tsv").read_text().splitlines()[1:]
    return {key: (int(size), float(bits)) for key, size, bits in (line.split("\t") for line in lines)}


def grammar_of(**rules: list[str]) -> Grammar:
    return Grammar({name: tuple(map(parse_option, lines)) for name, lines in rules.items()}, "start")


def every_derivation(grammar: Grammar) -> list[tuple[str, float]]:
    """All texts of a small grammar with the probability of each derivation, by walking the whole tree."""
    done, waiting = [], [(grammar.begin(), 1.0)]
    while waiting:
        state, probability = waiting.pop()
        state = grammar.advance(state)
        if state.todo is None:
            done.append((state.text, probability))
        else:
            waiting.extend((step.state, probability * step.probability) for step in grammar.steps(state))
    return done


def run_script(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


# the shipped files


def test_shipped_corpus_begins_as_the_seed_makes_it(shipped: list[str]) -> None:
    begun = [story.text for story in corpus.draw_stories(50_000)]
    assert begun == shipped[: len(begun)] and len(begun) > 20


@pytest.mark.slow
def test_shipped_files_are_what_the_seed_makes() -> None:
    done = run_script("--check")
    assert done.returncode == 0, done.stderr


def test_description_agrees_with_the_files(shipped: list[str], known_bits: dict[str, tuple[int, float]]) -> None:
    about, raw = json.loads((DATA / "stories.json").read_text()), (DATA / "stories.txt").read_bytes()
    assert about["sha256"] == hashlib.sha256(raw).hexdigest()
    assert about["documents"] == len(shipped) == len(set(shipped)) == len(known_bits)
    assert about["bytes"] == sum(len(text.encode()) for text in shipped)
    assert [corpus.digest(text) for text in shipped] == list(known_bits)
    assert about["bits"] == pytest.approx(math.fsum(bits for _, bits in known_bits.values()), abs=0.01)
    assert about["bits_per_byte"] == pytest.approx(about["bits"] / about["bytes"], abs=1e-8)


def test_text_is_clean_english(shipped: list[str]) -> None:
    for text in shipped:
        assert text.isascii() and text == text.strip() and corpus.SEPARATOR not in text
        assert not re.search(r"[\[\]{}<>^|/=_]|  |\.\.|,,| [.,;:!?]", text), text
        assert not re.search(r"\b[Aa] [aeiouAEIO](?!ne\b|nce\b|u)|\b[Aa]n [bcdfgjklmnpqrstvwxyz]", text), text
        assert not re.search(r"(?<![.!?:]\")(?<!Mr)(?<!Mrs)(?<!St)[.!?] [a-z]", text), text
        assert not re.search(r"\b(a|an|the|of|to|and|down|was) \1\b", text), text
        assert text.count('"') % 2 == 0, text


@pytest.mark.parametrize("compress", [lzma.compress, bz2.compress])
def test_no_general_compressor_gets_below_the_floor(compress) -> None:
    raw, about = (DATA / "stories.txt").read_bytes(), json.loads((DATA / "stories.json").read_text())
    assert 8 * len(compress(raw)) / len(raw) > 2 * about["bits_per_byte"]


# the probability of a story


def test_every_sampled_story_has_one_derivation_with_the_generators_probability() -> None:
    grammar = corpus.load_grammar()
    for story in corpus.draw_stories(30_000, seed=77):
        parsed = grammar.parse(story.text)
        assert parsed.derivations == 1, story.text
        assert parsed.longer == 0, f"another story begins with: {story.text}"
        assert parsed.bits == pytest.approx(story.bits, abs=1e-8)


@pytest.mark.slow
def test_a_shipped_story_has_one_derivation_with_the_recorded_bits(shipped, known_bits) -> None:
    grammar = corpus.load_grammar()
    for text in shipped[::16]:
        parsed = grammar.parse(text)
        assert (parsed.derivations, parsed.longer) == (1, 0), text
        assert parsed.bits == pytest.approx(known_bits[corpus.digest(text)][1], abs=1e-5)


def test_bits_are_the_sum_over_choices_whose_alternatives_sum_to_one(shipped: list[str]) -> None:
    grammar = corpus.load_grammar()
    for text in shipped[:10]:
        parsed = grammar.parse(text)
        assert len(parsed.points) > 50
        bits = []
        for point, following in itertools.pairwise([*parsed.points, None]):
            steps = grammar.steps(point)
            assert math.fsum(step.probability for step in steps) == pytest.approx(1.0, abs=1e-12)
            onward = [(step, grammar.advance(step.state)) for step in steps]
            taken = [s for s, r in onward if (r == following if following else (r.todo is None and r.text == text))]
            assert len(taken) == 1, "the alternatives must be told apart by what is told"
            bits.append(-math.log2(taken[0].probability))
        assert parsed.bits == pytest.approx(math.fsum(bits), abs=1e-9)


# the engine, on grammars small enough to enumerate


def test_small_grammar_sums_to_one_and_parses_to_the_enumerated_probabilities() -> None:
    grammar = grammar_of(
        start=["<A fruit:one> and <a fruit>[?one=apple !|3* ?|.]", "2* <name:who> ate {a fish}[| twice]."],
        fruit=["apple", "3* pear", "orange"],
        name=["Ann{fish=trout}", "Anna{fish=eel}"],
    )
    derivations = every_derivation(grammar)
    assert math.fsum(p for _, p in derivations) == pytest.approx(1.0, abs=1e-12)
    texts = {text for text, _ in derivations}
    assert len(texts) == len(derivations)
    for text, probability in derivations:
        assert 2.0 ** -grammar.parse(text).bits == pytest.approx(probability, rel=1e-12)
    assert {"An apple and a pear!", "A pear and an orange?", "Ann ate a trout.", "Anna ate an eel twice."} <= texts
    assert "A pear and an apple!" not in texts, "the condition must hold"
    assert "A pear and a pear?" not in texts, "an alternative serves once"


def test_ambiguous_text_gets_the_sum_of_its_derivations() -> None:
    grammar = grammar_of(start=["[a|3* ab][bc|c]"])
    totals: Counter[str] = Counter()
    for text, probability in every_derivation(grammar):
        totals[text] += probability
    assert totals["abc"] == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)
    for text, probability in totals.items():
        assert 2.0 ** -grammar.parse(text).bits == pytest.approx(probability, rel=1e-12)
    assert grammar.parse("abc").derivations == 2


def test_text_that_another_text_continues_is_noticed() -> None:
    grammar = grammar_of(start=["The end[.|. Or not.]"])
    assert grammar.parse("The end.").longer == 1
    assert grammar.parse("The end. Or not.").longer == 0


def test_samples_have_the_frequencies_of_their_probabilities() -> None:
    grammar, n = grammar_of(start=["[a|2* b|5* c][x|y]"]), 20_000
    rng = random.Random(11)
    counts = Counter(grammar.sample(rng).text for _ in range(n))
    for text, probability in every_derivation(grammar):
        assert abs(counts[text] - n * probability) < 5 * math.sqrt(n * probability)


def test_mean_bits_of_samples_approach_the_entropy_from_enumeration() -> None:
    grammar, n, rng = grammar_of(start=["[a|2* b|5* c]<w>", "3* d<w>"], w=["7* x", "y"]), 20_000, random.Random(3)
    entropy = -sum(p * math.log2(p) for _, p in every_derivation(grammar))
    bits = [grammar.sample(rng).bits for _ in range(n)]
    assert sum(bits) / n == pytest.approx(entropy, abs=0.05)


def test_grammar_mistakes_are_named() -> None:
    with pytest.raises(GrammarError, match="calls <nobody>"):
        grammar_of(start=["<nobody>"])
    with pytest.raises(GrammarError, match="used before it is set"):
        grammar_of(start=["{hero}"]).sample(random.Random(0))
    with pytest.raises(GrammarError, match="no alternative is allowed"):
        grammar_of(start=["<x> <x>"], x=["only"]).sample(random.Random(0))
    with pytest.raises(GrammarError, match="closes"):
        parse_parts("[a|b")


# the floor of other texts, and the command


def test_floor_of_any_split_follows_from_the_recorded_bits(shipped, known_bits) -> None:
    split = shipped[7::97]
    reckoned = corpus.floor(split)
    recorded = [known_bits[corpus.digest(text)] for text in split]
    assert reckoned.bytes == sum(size for size, _ in recorded)
    assert reckoned.bits == pytest.approx(sum(bits for _, bits in recorded), abs=1e-4)


def test_text_that_the_grammar_cannot_make_is_an_error_that_names_the_place(shipped: list[str]) -> None:
    grammar = corpus.load_grammar()
    changed = shipped[0].replace(" the ", " teh ", 1)
    with pytest.raises(NotFromGrammarError, match=r"cannot produce this text.*teh") as raised:
        grammar.parse(changed)
    place = int(re.search(r"character (\d+)", str(raised.value))[1])
    assert abs(place - changed.index("teh")) < 60
    for wrong in (shipped[0][:-1], shipped[0] + " ", shipped[0] + corpus.SEPARATOR + shipped[1], ""):
        with pytest.raises(NotFromGrammarError):
            grammar.parse(wrong)


def test_command_prints_the_floor_of_text_and_of_json_lines(shipped: list[str], tmp_path: Path) -> None:
    stories = shipped[:3]
    file = tmp_path / "some.txt"
    file.write_text(corpus.SEPARATOR.join(stories) + "\n")
    expected = corpus.floor(stories).as_dict()
    assert json.loads(run_script("--floor", file).stdout) == expected
    lines = "\n".join(json.dumps({"text": text}) for text in stories)
    assert json.loads(run_script("--floor", "-", stdin=lines).stdout) == expected


def test_command_refuses_foreign_text_in_one_line(tmp_path: Path) -> None:
    done = run_script("--floor", "-", stdin="It was the best of times.")
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "cannot produce this text" in done.stderr
    assert run_script("--floor", tmp_path / "absent.txt").returncode == 3


def test_command_writes_the_same_bytes_twice_and_check_finds_a_change(tmp_path: Path) -> None:
    options = ("--size", 20_000, "--seed", 9, "--out", tmp_path)
    assert run_script(*options).returncode == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run_script(*options).returncode == 0
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run_script("--check", *options).returncode == 0
    (tmp_path / "stories.txt").write_text("changed")
    assert run_script("--check", *options).returncode == 1


# a model on the stories


def test_readme_states_the_floor_of_the_corpus_and_of_the_default_validation_split(known_bits, tmp_path: Path) -> None:
    from gptcli.data.config import DataConfig
    from gptcli.data.scan import scan_texts
    from gptcli.data.workspace import Workspace

    config = DataConfig(document_separator=corpus.SEPARATOR)
    scan = scan_texts([str(DATA / "stories.txt")], Workspace(config, tmp_path, 1337))
    known = [known_bits[corpus.digest(text)] for text in scan.val_texts()]
    split = sum(bits for _, bits in known) / sum(size for size, _ in known)
    whole = json.loads((DATA / "stories.json").read_text())["bits_per_byte"]
    stated = re.findall(r"\| (\d\.\d{4}) \|", (DATA / "README.md").read_text(encoding="utf-8"))
    assert stated == [f"{whole:.4f}", f"{split:.4f}"]


@pytest.mark.slow
def test_training_approaches_the_floor_from_above(tmp_path: Path) -> None:
    from gptcli.data.shards import TokenShards
    from gptcli.tokenizer.tokenizer import load_tokenizer

    run = tmp_path / "run"
    keys = (
        "data.tokenizer.name=byte",
        "data.document_separator=" + json.dumps(corpus.SEPARATOR),
        "model.n_layer=2",
        "model.n_embd=64",
        "model.n_head=2",
        "model.context_length=128",
        "train.tokens_per_step=2048",
        "train.max_steps=30",
        "train.eval_every_steps=10",
        "train.sample_every_steps=0",
    )
    settings = [f"--set={key}" for key in keys]
    done = gptcli("train", DATA / "stories.txt", "-c", "tiny-1m", "--out", run, "--json", *settings)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    tokenizer = load_tokenizer(run)
    validation = [tokenizer.decode(ids.tolist()) for ids, _ in TokenShards.open(run / "val").iter_documents()]
    floor = corpus.floor(validation).bits_per_byte
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["val_loss"] for record in records if record.get("val_loss") is not None]
    per_byte = [loss * summary["val_bits_per_byte"] / summary["val_loss"] for loss in losses]
    assert len(per_byte) >= 3 and per_byte[-1] < per_byte[0] - 0.1
    assert all(bits > floor for bits in per_byte)
