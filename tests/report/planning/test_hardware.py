"""`--gpu`: names, names with numbers, numbers alone, and mistakes."""

from __future__ import annotations

import pytest

from gptcli.errors import UsageError
from gptcli.report.planning.hardware import ACCELERATORS, NUMBERS, example, parse_accelerator


def test_every_device_has_a_source_and_plausible_numbers() -> None:
    for device in ACCELERATORS.values():
        assert device.source and all(getattr(device, number) > 0 for number in NUMBERS)
        assert device.network <= device.link <= device.bandwidth  # what is further away is slower
        assert device.flops / device.bandwidth > 1


def test_a_name_may_be_written_loosely_and_numbers_replaced() -> None:
    assert parse_accelerator("RTX-4090") is ACCELERATORS["rtx4090"] or parse_accelerator("RTX-4090").flops == 165e12
    changed = parse_accelerator("h100,memory=94e9, link=300e9")
    assert (changed.memory, changed.link, changed.flops) == (94e9, 300e9, ACCELERATORS["h100"].flops)


def test_a_device_may_be_given_by_its_numbers_alone() -> None:
    own, h100 = parse_accelerator(example()), ACCELERATORS["h100"]
    assert all(getattr(own, number) == getattr(h100, number) for number in NUMBERS)


def test_fp32_products_on_a_gpu_run_at_half_the_rate() -> None:
    assert parse_accelerator("a100").peak_flops("fp32") == 156e12  # the data sheet's TF32
    assert parse_accelerator("cpu").peak_flops("fp32") == parse_accelerator("cpu").flops


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h10", "did you mean h100"),
        ("abacus", "known are a100"),
        ("memory=80e9", "lacks flops, bandwidth, link, network"),
        ("h100,memory=much", "'memory=much' is not a number of a device"),
        ("h100,memory=-1", "'memory=-1' is not"),
        ("h100,memory=inf", "'memory=inf' is not"),
        ("h100,speed=3", "'speed=3' is not"),
    ],
)
def test_mistakes_name_the_remedy(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_accelerator(text)
