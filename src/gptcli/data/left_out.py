"""The files of folders that are left out of a corpus, each with the reason, in words and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gptcli.console import say, shell_word

HIDDEN = "hidden"
EXCLUDED = "excluded by data.exclude"
NOT_INCLUDED = "not matched by data.include"
OTHER_ENDING = "another kind of file, by its ending"
"""The prefix of the reason for a file whose ending is not one of text."""
REPLACED_SHARE = 0.001
MAX_LISTED = 1000
"""The most files that a report lists."""
MAX_SHOWN, MAX_ENDINGS = 3, 5
"""The most files and endings that one line names."""


class LeftOut(NamedTuple):
    """A file or, with a slash at the end of its name, a folder that is not read, and the reason."""

    name: str
    reason: str
    remedy: str = ""

    @property
    def is_unreadable(self) -> bool:
        """Whether the file would be read if that were possible."""
        return self.reason not in (HIDDEN, EXCLUDED, NOT_INCLUDED) and not self.reason.startswith(OTHER_ENDING)


def left_out_report(left_out: Iterable[LeftOut]) -> dict[str, Any]:
    """Return a JSON report: the numbers by reason, and the first MAX_LISTED files, unreadable ones first."""
    found = sorted(left_out, key=lambda one: (not one.is_unreadable, one))
    numbers = Counter("unreadable" if one.is_unreadable else one.reason for one in found)
    return {
        "total": len(found),
        "reasons": dict(sorted(numbers.items())),
        "files": [one._asdict() for one in found[:MAX_LISTED]],
    }


def say_left_out(left_out: Sequence[LeftOut]) -> None:
    """Say in one line what was left out of a corpus, if anything was."""
    if left_out:
        say(f"left out of the corpus: {in_words(left_out)}")


def warn_of_unused(exclude: Sequence[str], left_out: Iterable[LeftOut]) -> None:
    """Warn if the patterns of `data.exclude`, apart from those of hidden files, leave out nothing."""
    needed = [pattern for pattern in exclude if not f"/{pattern}".startswith(("/.", "//.", "/**/."))]
    if needed and not any(one.reason == EXCLUDED for one in left_out):
        say(
            f"warning: data.exclude={shell_word(','.join(needed))} leaves out no file: it applies to files of folders, "
            "globs and archives; several patterns are a list: --set \"data.exclude=['*.log', 'old/']\""
        )


def warn_of_replaced(replaced: int, characters: int) -> None:
    """Warn if more than REPLACED_SHARE of a corpus replaces bytes that could not be decoded."""
    if replaced > REPLACED_SHARE * characters:
        say(
            f"warning: {replaced:,} of {characters:,} characters are U+FFFD, put in place of bytes that could not be "
            "decoded; check data.encoding"
        )


def in_words(left_out: Sequence[LeftOut]) -> str:
    """Return the number of files for each reason, and the first names, in words."""
    unreadable = [one for one in left_out if one.is_unreadable]
    endings = Counter(
        one.reason.rpartition(" ")[2]
        for one in left_out
        if one.reason.startswith(OTHER_ENDING) and not one.is_unreadable
    )
    parts = []
    if unreadable:
        shown = "; ".join(f"{one.name}: {one.reason}" for one in unreadable[:MAX_SHOWN])
        more = "; ..." * (len(unreadable) > MAX_SHOWN)
        parts.append(f"{len(unreadable):,} that cannot be read as text ({shown}{more})")
    if endings:
        shown = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(MAX_ENDINGS))
        parts.append(f"{endings.total():,} of other kinds ({shown}{', ...' * (len(endings) > MAX_ENDINGS)})")
    for reason in (HIDDEN, EXCLUDED, NOT_INCLUDED):
        if count := sum(one.reason == reason for one in left_out):
            parts.append(f"{count:,} {reason}")
    return ", ".join(parts)
