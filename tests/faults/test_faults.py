"""A slice of the campaigns that `scripts/faults` runs whole: real faults, the real command."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from signal import SIGINT, SIGTERM, SIGUSR1

import pytest

from faults.bad_numbers import number_campaign
from faults.bad_weights import weight_campaign
from faults.cached import SUBJECTS, cache_campaign
from faults.damage import damage_campaign, run_damage_campaign
from faults.disk import can_mount, disk_campaign
from faults.escapes import escape_campaign
from faults.exports import export_campaign
from faults.full_disks import full_disk_campaign
from faults.hostile import hostile_campaign
from faults.hostile_requests import hostile_request_campaign
from faults.in_place import baseline_campaign
from faults.interrupted import COMMANDS, interruption_campaign
from faults.kills import MOST_STEPS_LOST, adapter_kill_campaign, kill_campaign
from faults.leases import lease_campaign
from faults.links import link_campaign
from faults.modes import mode_campaign
from faults.nonsense import nonsense_campaign
from faults.nursery import Nursery
from faults.other_trainings import other_training_campaign
from faults.races import race_campaign
from faults.signals import PHASES, SIGNALS, signal_campaign
from faults.sizes import size_campaign
from faults.system_calls import Call, calls_of, traced, wrong_order
from faults.templates import template_campaign
from faults.tokenizers import tokenizer_campaign
from faults.victim import make_corpus, train_command


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    environment = {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with Nursery(environment) as started:
        yield started


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_checkpoint_and_changes_nothing(nursery: Nursery, tmp_path: Path) -> None:
    found = kill_campaign(nursery, make_corpus(tmp_path), trials=6, within_a_save=3, train__max_steps=60)
    assert found.trials >= 6 and found.within_a_save >= 3
    assert found.lost_checkpoints == 0 and found.differences == [] and found.damaged_files == []
    assert found.most_steps_lost <= MOST_STEPS_LOST


@pytest.mark.slow
def test_a_kill_of_the_training_of_an_adapter_loses_no_checkpoint_and_changes_nothing(
    nursery: Nursery, tmp_path: Path
) -> None:
    found = adapter_kill_campaign(nursery, tmp_path, trials=2, within_a_save=1)
    assert found.lost_checkpoints == 0 and found.differences == [] and found.damaged_files == []
    assert found.most_steps_lost <= MOST_STEPS_LOST


@pytest.mark.slow
def test_a_signal_in_any_phase_saves_and_leaves(nursery: Nursery, tmp_path: Path) -> None:
    phases = [phase for phase in PHASES if phase != "compilation"]
    for phase, signals in zip(phases, ((SIGTERM,), SIGNALS, (SIGUSR1,), (SIGTERM,), (SIGINT,)), strict=True):
        folder = tmp_path / phase
        folder.mkdir()
        found = signal_campaign(nursery, folder, trials=1, phases=[phase], signals=signals)
        assert found.trials == {phase: len(signals)}
        assert found.failures == []


@pytest.mark.slow
def test_a_signal_ends_other_commands_and_leaves_nothing_half_written(nursery: Nursery, tmp_path: Path) -> None:
    commands = {"export --to hf": COMMANDS["export --to hf"]}
    found = interruption_campaign(nursery, tmp_path, trials=1, commands=commands, seed=5)
    assert found.trials == 1 and found.failures == []


@pytest.mark.slow
def test_a_signal_while_the_compiler_works_leaves_at_once(nursery: Nursery, tmp_path: Path) -> None:
    found = signal_campaign(nursery, tmp_path, trials=1, phases=["compilation"], signals=[SIGINT])
    assert found.trials == {"compilation": 1}
    assert found.failures == []


@pytest.mark.slow
def test_every_damage_is_found_before_anything_is_used(nursery: Nursery, tmp_path: Path) -> None:
    found = damage_campaign(nursery, tmp_path, flips=100, cuts=30, by_command=2)
    assert found.flips_found == found.flips == 100 and found.cuts_found == found.cuts == 30
    assert found.failures == []


@pytest.mark.slow
def test_a_bit_flipped_in_any_file_of_a_run_is_found_and_changes_no_output(nursery: Nursery, tmp_path: Path) -> None:
    found = run_damage_campaign(nursery, tmp_path, flips=60, by_command=2)
    assert found.failures == []
    assert found.flips == found.found == 60 and len(found.files) > 12


@pytest.mark.slow
def test_a_damaged_file_of_the_data_cache_is_named_and_changes_no_token(nursery: Nursery, tmp_path: Path) -> None:
    found = cache_campaign(nursery, tmp_path, trials=12 * len(SUBJECTS), trainings=2)
    assert found.failures == []
    assert found.preparations == 12 * len(SUBJECTS) and found.trainings == 2 and len(found.files) > 12


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint(nursery: Nursery, tmp_path: Path) -> None:
    found = disk_campaign(nursery, tmp_path, offsets=1, sizes=1 if can_mount(tmp_path / "tmpfs") else 0, seed=1)
    assert found.failed_writes == 1 and found.failures == []


@pytest.mark.slow
def test_a_number_that_is_not_finite_changes_no_byte(nursery: Nursery, tmp_path: Path) -> None:
    found = number_campaign(nursery, tmp_path, steps=(10,), kinds=(("loss", nan), ("gradient", inf)), most_steps=25)
    assert found.trials == 8 and found.failures == []


@pytest.mark.slow
def test_weights_that_are_not_finite_end_no_command_with_0(nursery: Nursery, tmp_path: Path) -> None:
    found = weight_campaign(nursery, tmp_path, tensors=("blocks.0.attention.qkv.weight",), values=("nan",))
    assert found.trials >= 25 and found.failures == []


@pytest.mark.slow
def test_nonsense_is_refused_by_its_name_or_does_what_it_says(nursery: Nursery, tmp_path: Path) -> None:
    found = nonsense_campaign(nursery, tmp_path, part=0.013, seed=1)
    assert found.keys >= 126 and found.options >= 50 and found.trials >= 50
    assert found.failures == []


@pytest.mark.slow
def test_hostile_files_run_nothing_and_take_no_memory(nursery: Nursery, tmp_path: Path) -> None:
    found = hostile_campaign(nursery, tmp_path, part=1 / 6)
    assert found.cases >= 10 and found.canaries == 0
    assert found.failures == []


@pytest.mark.slow
def test_hostile_requests_to_a_server_are_refused_in_time_and_take_no_memory(tmp_path: Path) -> None:
    found = hostile_request_campaign(tmp_path, every=3)
    assert found.trials >= 30 and found.failures == []


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_it_began_or_not_at_all(nursery: Nursery, tmp_path: Path) -> None:
    found = other_training_campaign(nursery, tmp_path, part=0.01)
    assert found.failures == []
    assert found.settings > 2 and found.texts == 1


@pytest.mark.slow
def test_no_size_that_a_file_claims_takes_memory_or_time(nursery: Nursery, tmp_path: Path) -> None:
    found = size_campaign(nursery, tmp_path, part=0.025, seed=2)
    assert found.failures == []
    assert all(found.trials.values()) and sum(found.trials.values()) > 20


@pytest.mark.slow
def test_tokenizers_of_others_end_in_a_line_or_a_result(nursery: Nursery, tmp_path: Path) -> None:
    found = tokenizer_campaign(nursery, tmp_path, trials=16)
    assert found.failures == []
    assert found.trials == {"valid": 15, "attacks": 4, "mutations": 10, "folders": 2}


@pytest.mark.slow
def test_chat_templates_of_others_end_in_a_line_or_a_text(nursery: Nursery, tmp_path: Path) -> None:
    found = template_campaign(nursery, tmp_path, trials=10)
    assert found.failures == [] and found.trials == {"templates": 14}


@pytest.mark.slow
def test_no_control_character_of_others_is_printed(nursery: Nursery, tmp_path: Path) -> None:
    found = escape_campaign(nursery, tmp_path, trials=4)
    assert found.failures == []
    assert found.trials > 10 and found.shown == 1  # the model's text had some, which the terminal showed as escapes


@pytest.mark.slow
def test_of_two_trainings_in_one_directory_one_runs(nursery: Nursery, tmp_path: Path) -> None:
    found = race_campaign(nursery, tmp_path, trials=3)
    assert found.trials == 3 and found.failures == []


@pytest.mark.slow
def test_the_usual_scheme_fails_where_ours_does_not(nursery: Nursery, tmp_path: Path) -> None:
    """The harness can tell: of a file that is written in place half the kills leave nothing, and flips go unnoticed."""
    found = baseline_campaign(nursery, tmp_path, kills=2, flips=50, cuts=5)
    assert found.unreadable > 0
    assert found.flips_found < 25 and found.cuts_found == 5


CHECKPOINT = r"/checkpoints/step-\d+$"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_data_is_flushed_before_the_rename_and_the_directory_after(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = train_command(make_corpus(tmp_path), tmp_path / "run", train__max_steps=10)
    calls = traced(command, tmp_path / "calls", environment)
    entries = [rf"/gptcli/{kind}/[0-9a-f]{{32}}$" for kind in ("scans", "tokenizers", "tokens")]
    for target in (CHECKPOINT, r"/run\.toml$", r"/run/model\.safetensors$", *entries):
        assert wrong_order(calls, re.compile(target)) == []


def test_a_call_that_another_thread_interrupts_in_the_log_counts_where_it_ends() -> None:
    # As strace 6.1 writes it: the result of a resumed call is padded to a column.
    log = [
        '41  openat(AT_FDCWD</w>, "/c/x.tmp/a", O_RDONLY|O_CLOEXEC <unfinished ...>',
        "42  fsync(18</c/x.tmp/a> <unfinished ...>",
        "41  <... openat resumed>)             = 20</c/x.tmp/a>",
        '41  write(19</c/log>, "{}", 2)        = 2',
        "42  <... fsync resumed>)              = 0",
        '42  rename("/c/x.tmp", "/c/x" <unfinished ...>',
        "41  fsync(19</c/log>) = -1 EIO (Input/output error)",
        "42  <... rename resumed>)             = 0",
    ]
    assert calls_of(log) == [
        Call("write", ("/c/log",)), Call("sync", ("/c/x.tmp/a",)), Call("rename", ("/c/x.tmp", "/c/x")),
    ]  # fmt: skip


def test_a_wrong_order_of_system_calls_is_noticed() -> None:
    right = [
        Call("write", ("/c/x.tmp/a",)), Call("sync", ("/c/x.tmp/a",)), Call("sync", ("/c/x.tmp",)),
        Call("rename", ("/c/x.tmp", "/c/x")), Call("sync", ("/c",)),
    ]  # fmt: skip
    target = re.compile("/c/x$")
    assert wrong_order(right, target) == []
    for missing in (1, 2, 4):
        assert wrong_order(right[:missing] + right[missing + 1 :], target)
    assert wrong_order([right[1], right[0], *right[2:]], target)
    assert wrong_order(right[:3], target)


@pytest.mark.slow
def test_a_link_in_a_run_or_a_cache_changes_nothing_outside(nursery: Nursery, tmp_path: Path) -> None:
    found = link_campaign(nursery, tmp_path, in_runs=6, in_caches=2, seed=1)
    assert found.trials >= 5 and found.failures == []


@pytest.mark.slow
def test_a_disk_that_fills_up_while_data_is_prepared_is_an_error(nursery: Nursery, tmp_path: Path) -> None:
    if not can_mount(tmp_path / "tmpfs"):
        pytest.skip("mounting is not permitted here")
    found = full_disk_campaign(nursery, tmp_path, trials=4, again=1)
    assert found.failed and found.failures == []


def test_processes_of_other_namespaces_are_not_taken_for_dead(tmp_path: Path) -> None:
    assert lease_campaign(tmp_path, trials=4).failures == []


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_the_old_target_or_the_new_one(nursery: Nursery, tmp_path: Path) -> None:
    found = export_campaign(nursery, tmp_path, trials=4, formats=("hf",))
    assert found.trials == 4 and found.failures == []


@pytest.mark.slow
def test_everything_has_the_permissions_that_the_umask_leaves(nursery: Nursery, tmp_path: Path) -> None:
    found = mode_campaign(nursery, tmp_path, umasks=(0o027,))  # which neither 0o600 nor 0o644 obeys
    assert found.files > 50 and found.failures == []
