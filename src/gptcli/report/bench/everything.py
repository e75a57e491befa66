"""`gptcli bench`: every bench but those that train whole models (learn, deadline), in a few minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from gptcli.report.bench import decoding, encoding, limits, startup, training
from gptcli.report.bench.peers import Chosen, choose_peers
from gptcli.report.bench.publish import Outcome
from gptcli.report.bench.setting import Setting

Bench = Callable[[Setting], Outcome]

SECONDS = {"limits": 0.05, "train": 2.0, "generate": 1.0, "data": 0.5}
STARTUP_ROUNDS = 10
TRAINING = training.TrainingRequest()
DECODING = decoding.DecodingRequest(new_tokens=24)
ENCODING = encoding.EncodingRequest(megabytes=2.0)


def everything(wanted: Sequence[str]) -> tuple[list[Bench], list[Chosen]]:
    """The benches in order, and all the peers that take part in any of them."""
    peers = {bench: choose_peers(wanted, bench) for bench in ("train", "generate", "data")}
    benches = [
        lasting("limits", limits.measure),
        lasting("train", partial(training.measure, TRAINING, peers["train"])),
        lasting("generate", partial(decoding.measure, DECODING, peers["generate"])),
        lasting("data", partial(encoding.measure, ENCODING, peers["data"])),
        lambda setting: startup.measure(replace(setting, rounds=STARTUP_ROUNDS)),
    ]
    return benches, list(dict.fromkeys(chosen for some in peers.values() for chosen in some))


def lasting(name: str, bench: Bench) -> Bench:
    """The bench with a round as long as suits it."""
    return lambda setting: bench(replace(setting, seconds=SECONDS[name]))
