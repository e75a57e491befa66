"""Every campaign with its numbers of trials, and what it found as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from faults.bad_numbers import number_campaign
from faults.bad_weights import VALUES, weight_campaign
from faults.cached import cache_campaign
from faults.command_lines import make_sandbox, planted_campaign, random_campaign, stream_campaign
from faults.damage import damage_campaign, run_damage_campaign
from faults.disk import can_mount, disk_campaign
from faults.escapes import escape_campaign
from faults.exports import export_campaign
from faults.full_disks import full_disk_campaign
from faults.hostile import hostile_campaign
from faults.hostile_requests import hostile_request_campaign
from faults.in_place import baseline_campaign
from faults.interrupted import COMMANDS, MOST_SECONDS, interruption_campaign
from faults.kills import MOST_STEPS_LOST, Kills, adapter_kill_campaign, kill_campaign, preference_kill_campaign
from faults.leases import lease_campaign
from faults.links import link_campaign
from faults.lost_ranks import lost_rank_campaign
from faults.modes import mode_campaign
from faults.nonsense import nonsense_campaign
from faults.nursery import Nursery
from faults.other_trainings import other_training_campaign
from faults.races import race_campaign
from faults.signals import signal_campaign
from faults.sizes import size_campaign
from faults.templates import template_campaign
from faults.tokenizers import tokenizer_campaign
from faults.victim import INTERVAL, make_corpus


class Row(NamedTuple):
    """A kind of fault, how often it was made, what was found, and what went wrong in words."""

    fault: str
    trials: int
    found: str
    failures: list[str]


@contextmanager
def nursery_in(folder: Path, **environment: str) -> Iterator[tuple[Nursery, Path]]:
    (folder / "work").mkdir(parents=True)
    with Nursery({"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", **environment}) as nursery:
        yield nursery, folder / "work"


def part_of(trials: int, part: float) -> int:
    return max(1, round(trials * part))


def kills(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = kill_campaign(nursery, make_corpus(work), part_of(200, part), part_of(120, part), seed)
    return [kill_row("SIGKILL at any moment, and aimed at a save", found)]


def kill_row(fault: str, found: Kills) -> Row:
    failures = [*found.differences, *found.damaged_files, *["a checkpoint was lost"] * found.lost_checkpoints]
    if found.most_steps_lost > MOST_STEPS_LOST:
        failures.append(f"{found.most_steps_lost} steps were lost")
    said = (
        f"{found.within_a_save} within a save; {found.lost_checkpoints} checkpoints lost, at most "
        f"{found.most_steps_lost} steps (an interval is {INTERVAL}); of {found.runs} trainings that ran to the end "
        f"{len(found.differences)} differ from an undisturbed one in batches, random state, weights or moments"
    )
    return Row(fault, found.trials, said, failures)


def adapter_kills(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        on_text = adapter_kill_campaign(nursery, work, part_of(30, part), part_of(20, part), seed)
    with nursery_in(folder / "preferences") as (nursery, work):
        on_pairs = preference_kill_campaign(nursery, work, part_of(30, part), part_of(20, part), seed)
    return [
        kill_row("SIGKILL of the training of an adapter (LoRA), at any moment and aimed at a save", on_text),
        kill_row("SIGKILL of the training of an adapter on preferences (DPO)", on_pairs),
    ]


def signals(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = signal_campaign(nursery, work, part_of(20, part), seed)
    said = f"{len(found.failures)} failures; the longest took {found.longest_seconds:.1f} s to end"
    phases = ", ".join(found.trials)
    return [Row(f"SIGTERM, SIGINT, SIGUSR1 ({phases})", sum(found.trials.values()), said, found.failures)]


def disk(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        sizes = part_of(20, part) if can_mount(folder / "tmpfs") else 0
        found = disk_campaign(nursery, work, part_of(50, part), sizes, seed)
    said = f"{len(found.failures)} failures"
    return [Row("a write fails; a disk is full", found.failed_writes + found.full_disks, said, found.failures)]


def damage(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = damage_campaign(nursery, work, part_of(1000, part), part_of(200, part), part_of(20, part), seed)
    with nursery_in(folder / "runs") as (nursery, work):
        of_run = run_damage_campaign(nursery, work, part_of(1000, part), part_of(100, part), seed)
    flips = [*found.failures, *["a flipped bit was not found"] * (found.flips - found.flips_found)]
    return [
        Row("a bit flipped in any file of a checkpoint", found.flips, f"{found.flips_found} found before use", flips),
        Row("a file of a checkpoint truncated", found.cuts, f"{found.cuts_found} found before use",
            ["a cut was not found"] * (found.cuts - found.cuts_found)),
        Row("a bit flipped in any file of a finished run, with and without checkpoints", of_run.flips,
            f"{of_run.found} found by `checkpoint verify`; of {2 * of_run.by_command} commands {of_run.refused} ended "
            "with an error that names the file, the others gave the output of the whole run", of_run.failures),
    ]  # fmt: skip


def ranks(folder: Path, part: float, seed: int) -> list[Row]:
    found = lost_rank_campaign(folder, part_of(30, part), seed=seed)
    failures = [*found.failures, *["a checkpoint was lost"] * found.lost_checkpoints]
    if found.most_steps_lost > MOST_STEPS_LOST:
        failures.append(f"{found.most_steps_lost} steps were lost")
    how = ", ".join(f"{strategy} {count}" for strategy, count in found.trials.items())
    said = (
        f"{found.within_a_save} within a save, {found.before_the_first_step} before the first step after a start; "
        f"{found.lost_checkpoints} checkpoints lost, at most {found.most_steps_lost} steps; {len(found.failures)} of "
        f"{found.runs} trainings did not end like an undisturbed one, bit for bit; it continued after at most "
        f"{found.longest_restart:.0f} s"
    )
    return [Row(f"SIGKILL of one rank of two ({how})", sum(found.trials.values()), said, failures)]


def numbers(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = number_campaign(nursery, work)
    said = f"{len(found.failures)} failures: no byte changed, and the run stopped where it should"
    with nursery_in(folder / "weights") as (nursery, work):
        weights = weight_campaign(nursery, work, values=tuple(VALUES)[: part_of(len(VALUES), part)])
    return [
        Row("NaN or infinity in the loss or a gradient", found.trials, said, found.failures),
        Row("NaN or infinity in weights, moments and models that every verb is given; losses above 709",
            weights.trials, f"{len(weights.failures)} ended with 0, saved such weights or printed NaN",
            weights.failures),
    ]  # fmt: skip


def nonsense(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder, **OFFLINE) as (nursery, work):
        found = nonsense_campaign(nursery, work, part, seed)
    said = (
        f"{len(found.failures)} failures; {found.accepted} were accepted, the others ended with "
        f"a line that names the key or the option; at most {found.most_seconds:.1f} s and "
        f"{max(0, found.most_growth) / 2**20:.0f} MiB more of memory"
    )
    kind = f"nonsense for {found.keys} keys of the configuration and {found.options} options that are numbers"
    return [Row(kind, found.trials, said, found.failures)]


def hostile(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = hostile_campaign(nursery, work, part)
    said = f"{found.canaries} ran something; at most {found.most_growth / 2**20:.0f} MiB of memory were used"
    return [Row("a hostile file", found.cases, said, found.failures)]


def requests(folder: Path, part: float, seed: int) -> list[Row]:
    found = hostile_request_campaign(folder, max(1, round(1 / part)))
    said = (
        f"{len(found.failures)} failures: refused or ended within {found.most_seconds:.1f} s, the server went on "
        f"answering, and its memory grew by {max(0, found.growth) / 2**20:.0f} MiB over all of them"
    )
    return [Row("a hostile request to a server: bodies, JSON, heads, paths, schemas, connections", found.trials, said,
                found.failures)]  # fmt: skip


def tokenizers(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = tokenizer_campaign(nursery, work, part_of(560, part), seed)
    kinds = ", ".join(f"{kind} {count}" for kind, count in found.trials.items())
    said = (
        f"{len(found.failures)} failures: a result or a line; at most {found.most_growth / 2**20:.0f} MiB of memory "
        f"and {found.longest_seconds:.1f} s of processor time were used"
    )
    return [Row(f"an untrusted `tokenizer.json` ({kinds})", sum(found.trials.values()), said, found.failures)]


def templates(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = template_campaign(nursery, work, part_of(200, part), seed)
    said = (
        f"{len(found.failures)} failures: a text or a line, and nothing ran; at most "
        f"{found.most_growth / 2**20:.0f} MiB of memory and {found.longest_seconds:.1f} s of processor time were used"
    )
    return [Row("an untrusted chat template", found.trials["templates"], said, found.failures)]


def escapes(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = escape_campaign(nursery, work, part_of(112, part), seed)
    said = f"{len(found.failures)} failures: none reached stderr, a table or a terminal, at {len(found.places)} places"
    return [Row("a control character in a name, value, token or text", found.trials, said, found.failures)]


def races(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = race_campaign(nursery, work, part_of(100, part))
    said = f"{len(found.failures)} failures; the other one ended after at most {found.longest_seconds:.1f} s"
    return [Row("two trainings on one directory", found.trials, said, found.failures)]


def links(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = link_campaign(nursery, work, part_of(130, part), part_of(80, part), seed)
    said = f"{len(found.failures)} failures: nothing outside changed; {found.refused} commands named the link"
    return [Row("a link in place of a file of a run or a cache", found.trials, said, found.failures)]


def full_disks(folder: Path, part: float, seed: int) -> list[Row]:
    trials = part_of(150, part) if can_mount(folder / "tmpfs") else 0
    with nursery_in(folder) as (nursery, work):
        found = full_disk_campaign(nursery, work, trials, part_of(40, part), seed)
    said = f"{len(found.failures)} failures; {found.failed} found the disk full, and reported the free bytes"
    return [Row("a disk that fills up while data is prepared", found.trials, said, found.failures)]


def leases(folder: Path, part: float, seed: int) -> list[Row]:
    found = lease_campaign(folder / "leases", part_of(40, part), seed)
    said = f"{len(found.failures)} failures: no file of a living process was removed"
    return [Row("a cache that processes of several pid namespaces share", found.trials, said, found.failures)]


def exports(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = export_campaign(nursery, work, part_of(60, part), seed)
    said = f"{len(found.failures)} failures; {found.killed_before_the_target} before the new target existed"
    return [Row("SIGKILL of an export at any moment, and aimed at a rename", found.trials, said, found.failures)]


def modes(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = mode_campaign(nursery, work)
    said = f"{len(found.failures)} failures: all have the permissions that the umask leaves"
    return [Row("files and directories written under four umasks", found.files, said, found.failures)]


def baseline(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = baseline_campaign(nursery, work, part_of(40, part), part_of(1000, part), part_of(200, part), seed)
    return [
        Row("in place: SIGKILL within a save", found.kills_within_a_save,
            f"{found.unreadable} times the only checkpoint was unreadable", []),
        Row("in place: a bit flipped", found.flips, f"{found.flips_found} found", []),
        Row("in place: the file truncated", found.cuts, f"{found.cuts_found} found", []),
    ]  # fmt: skip


def interruptions(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = interruption_campaign(nursery, work, part_of(20, part), seed)
    failures = found.failures
    if found.longest_seconds > MOST_SECONDS:
        failures = [*failures, f"{found.longest} took {found.longest_seconds:.1f} s to end"]
    said = (
        f"{len(failures)} failures: ended after at most {found.longest_seconds:.1f} s, with the signal's exit code and "
        f"no process or half-written file left; {found.finished} commands had ended before"
    )
    return [Row(f"SIGINT, SIGTERM in {len(COMMANDS)} other commands", found.trials, said, failures)]


def resumes(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = other_training_campaign(nursery, work, part, seed)
    said = (
        f"{len(found.failures)} failures: {found.refused} refused and no file changed, {found.same} continued bit for "
        f"bit, {found.said} continued to other weights, which is allowed and was printed"
    )
    trials = found.settings + found.texts
    return [Row("a stopped training is resumed with another setting or text", trials, said, found.failures)]


def cached(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = cache_campaign(nursery, work, part_of(960, part), part_of(40, part), seed)
    kinds = ", ".join(f"{kind} {count}" for kind, count in found.by_kind.items())
    said = (
        f"{len(found.failures)} failures: {found.refused} ended with an error that names the file, the others "
        "reported it, made it again, and gave the tokens, report and weights of the whole cache, bit for bit"
    )
    return [
        Row(f"a file of the data cache damaged before a preparation ({kinds}), or before one of {found.trainings} "
            "trainings and resumes", found.preparations + found.trainings, said, found.failures),
    ]  # fmt: skip


def sizes(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder) as (nursery, work):
        found = size_campaign(nursery, work, part, seed)
    said = (
        f"{len(found.failures)} failures: one line at most, no traceback, no waiting; at most "
        f"{found.most_growth / 2**20:.0f} MiB of memory and {found.longest_seconds:.1f} s were used"
    )
    kinds = ", ".join(f"{kind} {trials}" for kind, trials in found.trials.items())
    return [
        Row(f"a number or a file of the wrong size or kind ({kinds})", sum(found.trials.values()), said, found.failures)
    ]


def command_lines(folder: Path, part: float, seed: int) -> list[Row]:
    with nursery_in(folder / "nursery", HOME=str(folder), **OFFLINE) as (nursery, work):
        sandbox = make_sandbox(work / "sandbox", nursery)
        lines = random_campaign(nursery, sandbox, work, part_of(400, part), seed)
        streams = stream_campaign(nursery, sandbox, work, part)
        planted = planted_campaign(nursery, sandbox, work, part_of(21, part))
    said = ", ".join(f"{code}: {count}" for code, count in sorted(lines.codes.items()))
    return [
        Row("random command lines: odd names, wrong types, missing values", lines.trials,
            f"{len(lines.failures)} failures; exit codes {said}", lines.failures),
        Row("stdin, stdout or stderr closed or full", streams.trials,
            f"{len(streams.failures)} failures: exit code 5 if data was lost, 0 if messages were", streams.failures),
        Row("a folder of modules named after the standard library and all dependencies", planted.trials,
            f"{len(planted.failures)} failures: no module was imported", planted.failures),
    ]  # fmt: skip


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
"""Names of the Hub in random command lines lead nowhere."""


CAMPAIGNS: dict[str, Callable[[Path, float, int], list[Row]]] = {
    "kills": kills,
    "adapter-kills": adapter_kills,
    "ranks": ranks,
    "signals": signals,
    "disk": disk,
    "damage": damage,
    "cached": cached,
    "numbers": numbers,
    "nonsense": nonsense,
    "hostile": hostile,
    "requests": requests,
    "sizes": sizes,
    "tokenizers": tokenizers,
    "templates": templates,
    "escapes": escapes,
    "races": races,
    "interruptions": interruptions,
    "command-lines": command_lines,
    "resumes": resumes,
    "links": links,
    "full-disks": full_disks,
    "leases": leases,
    "exports": exports,
    "modes": modes,
    "baseline": baseline,
}


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| fault | trials | found |", "| --- | ---: | --- |"]
    return "\n".join(lines + [f"| {row.fault} | {row.trials:,} | {row.found} |" for row in rows])
