"""Learning curves of real runs, tiny: ours through the command, the peer's own train.py from a checkout."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench.curves import Point, Run, median_step
from bench.learning import (
    LearningRequest,
    factor_to,
    measure,
    parse_arguments,
    parse_ours,
    sooner,
    summary,
)
from bench.learning_runs import LearningSetup, run_nanogpt, run_ours, write_dataset
from bench.peers import choose_peers
from bench.picture import check_picture, draw_curves
from gptcli.errors import UsageError
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.workers import BenchError
from numbered_lines import numbered_lines

TEXT = numbered_lines(400)
CONFIG = """
[model]
n_layer = 1
n_embd = 16
n_head = 1
context_length = 8

[optim]
lr = 0.01

[train]
max_steps = 9
tokens_per_step = 64
batch_size = 8
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fast.toml"
    path.write_text(CONFIG)
    return path


def run(seed: int, *losses: float) -> Run:
    """A run with a point every second."""
    points = tuple(Point(i, float(i), loss) for i, loss in enumerate(losses, start=1))
    return Run(seed, points, 10.0, 1.0, 1.0, 60.0)


def test_the_dataset_is_the_text_in_nanogpts_own_form(corpus: Path, tmp_path: Path) -> None:
    """As data/shakespeare_char/prepare.py makes it: sorted characters numbered from 0, first 90 %, last 10 %."""
    write_dataset([str(corpus)], tmp_path / "data", tmp_path / "cache")
    train, val = (np.fromfile(tmp_path / "data" / f"{name}.bin", dtype=np.uint16) for name in ("train", "val"))
    cut = len(train)
    assert cut == pytest.approx(0.9 * len(TEXT), abs=1)
    alphabet = sorted(set(TEXT[:cut]))
    assert train.tolist() == [alphabet.index(character) for character in TEXT[:cut]]
    assert val.tolist() == [alphabet.index(character) for character in TEXT[cut:]]
    meta = pickle.loads((tmp_path / "data" / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == len(alphabet)


@pytest.mark.slow
def test_a_peers_run_is_its_own_script_and_its_loss_that_of_the_whole_split(
    corpus: Path, checkout: Path, tmp_path: Path
) -> None:
    """The fake model is a bigram: with a rate of 0 it stays uniform, so that its loss is known exactly."""
    setup = LearningSetup((str(corpus),), eval_every=5, threads=1, device="cpu")
    folder = tmp_path / "work"
    folder.mkdir()
    found = run_nanogpt(setup, str(checkout), "--learning_rate=0.0 --pause=0.4", 7, folder)
    assert [point.step for point in found.points] == [5, 10]
    assert all(point.loss == pytest.approx(math.log(len(set(TEXT))), rel=1e-5) for point in found.points)
    assert 0 < found.first_step_seconds < found.points[0].stepping_seconds < found.points[1].stepping_seconds
    spent = found.startup_seconds + found.points[1].stepping_seconds
    assert found.wall_seconds - spent >= 3 * 0.4, "three evaluations, which the clock leaves out"
    assert not (checkout / "data").exists() and not (checkout / "out-bench").exists(), "it ran in a copy"


@pytest.mark.slow
def test_the_seed_of_a_peers_script_is_the_one_that_is_asked_for(corpus: Path, checkout: Path, tmp_path: Path) -> None:
    setup, outputs = LearningSetup((str(corpus),), 10, 1, "cpu"), []
    for number, seed in enumerate((3, 3, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run_nanogpt(setup, str(checkout), "", seed, folder)
        outputs.append(next(line for line in (folder / "output.txt").read_text().splitlines() if "initial" in line))
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.slow
def test_a_trained_bigram_is_measured_as_the_counts_say(corpus: Path, checkout: Path, tmp_path: Path) -> None:
    """A bigram model cannot be better on the whole split than the split's own conditional entropy."""
    setup = LearningSetup((str(corpus),), 100, 1, "cpu")
    folder = tmp_path / "work"
    folder.mkdir()
    found = run_nanogpt(setup, str(checkout), "--max_iters=200 --learning_rate=0.3", 1, folder)
    val = TEXT[-(len(TEXT) - int(0.9 * len(TEXT))) :]
    pairs, firsts = Counter(pairwise(val)), Counter(val[:-1])
    entropy = -sum(n * math.log(n / firsts[a]) for (a, _), n in pairs.items()) / (len(val) - 1)
    assert entropy < found.points[-1].loss < 0.6 * math.log(len(set(TEXT)))


@pytest.mark.slow
def test_a_script_that_fails_is_one_line_with_its_own_words(corpus: Path, checkout: Path, tmp_path: Path) -> None:
    setup = LearningSetup((str(corpus),), 5, 1, "cpu")
    (tmp_path / "work").mkdir()
    with pytest.raises(BenchError, match=r"train\.py failed: ValueError: Unknown config key: nonsense"):
        run_nanogpt(setup, str(checkout), "--nonsense=1", 1, tmp_path / "work")


@pytest.mark.slow
def test_ours_that_fails_is_one_line_with_its_own_words(corpus: Path, tmp_path: Path) -> None:
    setup = LearningSetup((str(corpus),), 5, 1, "cpu")
    (tmp_path / "work").mkdir()
    with pytest.raises(BenchError, match=r"gptcli train failed: gptcli: --set: unknown key 'model\.nlayer'"):
        run_ours(setup, (), ("model.nlayer=3",), 1, tmp_path / "work")


@pytest.mark.slow
def test_a_comparison_of_learning_ends_with_curves_of_both_and_a_picture(
    corpus: Path, config: Path, checkout: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.svg"
    request = LearningRequest(
        (str(corpus),),
        (parse_ours(f"tiny={config}"),),
        targets=(3.7, 0.5),
        seeds=(1, 2),
        eval_every=3,
        nanogpt=tuple(
            map(
                parse_arguments,
                ("bigram=--learning_rate=0.5 --max_iters=9", "own=--learning_rate=0.5 --max_iters=8 --eval_interval=4"),
            )
        ),
        picture=picture,
    )
    peers = choose_peers([f"nanogpt={checkout}"], "learn")
    outcome = measure(request, BenchOptions(rounds=2, threads=1, device="cpu"), peers)
    contenders = outcome.results["contenders"]
    assert list(contenders) == ["tiny", "bigram", "own"]
    assert [step for step, _, _ in contenders.pop("own")["runs"][0]["points"]] == [4, 8], "as its arguments say"
    for one in contenders.values():
        assert [run["seed"] for run in one["runs"]] == [1, 2]
        for points in (run["points"] for run in one["runs"]):
            assert [step for step, _, _ in points] == [3, 6, 9]
            assert points[0][1] < points[1][1] < points[2][1]
        assert one["targets"]["0.5"] == {"runs": 0, "seconds": None, "cold_seconds": None}
        assert one["startup_seconds"]["low"] > 0
        assert one["wall_seconds"]["low"] > one["startup_seconds"]["low"]
    assert contenders["bigram"]["runs"][0]["points"] != contenders["bigram"]["runs"][1]["points"]
    assert outcome.results["sooner"]["bigram"]["tiny"]["0.5"] is None
    assert "svg" in picture.read_text()[:300]


def test_medians_are_over_the_runs_that_reach_a_target() -> None:
    figures = summary([run(1, 3.0, 2.0), run(2, 3.0, 1.0), run(3, 3.0, 2.8)], (2.5, 0.5))
    reached = figures["targets"]["2.5"]
    assert reached["runs"] == 2
    assert reached["seconds"] == {"median": 1.375, "low": 1.25, "high": 1.5}
    assert reached["cold_seconds"]["median"] == 11.375
    assert figures["targets"]["0.5"] == {"runs": 0, "seconds": None, "cold_seconds": None}
    assert figures["lowest_loss"]["median"] == 2.0


def test_sooner_is_theirs_over_ours_seed_by_seed() -> None:
    ours = [run(1, 3.0, 2.0), run(2, 2.0)]
    theirs = [run(1, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0), run(2, 3.0, 3.0, 2.0)]
    factors = sooner(ours, theirs, (2.0, 1.0))
    assert factors["2.0"] == {"median": 3.0, "low": 3.0, "high": 3.0, "at_least": False}
    assert factors["1.0"] is None, "ours does not reach it"
    assert factor_to(factors["2.0"]) == "3.00x (3.00 to 3.00)"


def test_who_never_reaches_a_target_counts_with_the_whole_run() -> None:
    factors = sooner([run(1, 1.0), run(2, 1.0)], [run(1, 3.0, 0.5), run(2, 3.0, 2.9, 2.8, 2.7)], (1.0,))
    assert factors["1.0"] == {"median": 2.9, "low": 1.8, "high": 4.0, "at_least": True}
    assert factor_to(factors["1.0"]) == "> 2.90x (1.80 to 4.00)"
    assert factor_to(None) == "-"


def test_the_median_step_leaves_out_the_first() -> None:
    assert median_step([(1, 9.0), (2, 10.0), (3, 11.0), (4, 14.0)]) == 1.0
    assert median_step([(1, 9.0), (11, 14.0)]) == 0.5, "ten steps between two marks"
    assert median_step([(4, 2.0)]) == 0.5


@pytest.mark.parametrize(
    ("text", "name", "config"), [("fast=a/b.toml", "fast", "a/b.toml"), ("c/d.toml", "d", "c/d.toml"), ("e", "e", "e")]
)
def test_ours_are_named_by_the_user_or_by_their_file(text: str, name: str, config: str) -> None:
    assert parse_ours(text) == (name, (config,))


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("--device=cpu --compile=False", "nanogpt", "--device=cpu --compile=False"),
        ("config/a.py --device=cpu", "nanogpt", "config/a.py --device=cpu"),
        ("tuned=--learning_rate=3e-3 --x=1", "tuned", "--learning_rate=3e-3 --x=1"),
        ("big=config/a.py", "big", "config/a.py"),
    ],
)
def test_nanogpts_arguments_may_have_a_name(text: str, name: str, arguments: str) -> None:
    assert parse_arguments(text) == (name, arguments)


def test_two_contenders_need_two_names(checkout: Path) -> None:
    request = LearningRequest(("x.txt",), (("nanogpt", ()),))
    with pytest.raises(UsageError, match="two contenders are called nanogpt; name them"):
        measure(request, BenchOptions(), choose_peers([f"nanogpt={checkout}"], "learn"))


def test_without_a_corpus_there_is_nothing_to_learn() -> None:
    with pytest.raises(UsageError, match="no corpus to learn; name one"):
        measure(LearningRequest((), (("gptcli", ()),)), [], BenchOptions())


def test_pictures_that_cannot_be_drawn_are_refused_before_the_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match=r"end it in \.svg or \.png"):
        check_picture(tmp_path / "curve.gif")


def test_the_same_curves_give_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = {"ours": [[(1.0, 3.0), (2.0, 2.0)]], "theirs": [[(1.0, 3.5), (4.0, 2.0)]]}
    for name in ("a.svg", "b.svg", "c.png"):
        draw_curves(curves, [2.5], "text", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
