"""The pages that are generated are current, and what the docs name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.config.shipped import shipped_configs

DOCS = Path(__file__).resolve().parents[1] / "docs"
GENERATED = {"cli.md", "config.md"}
WRITTEN = (page.relative_to(DOCS) for page in DOCS.rglob("*.md") if page.name not in GENERATED)
PAGES = ["README.md", *sorted(f"docs/{page}" for page in WRITTEN)]


def test_the_generated_reference_is_current(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "scripts" / "reference.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_and_scripts_named_in_a_page_exist(root: Path, page: str) -> None:
    path = root / page
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link
    for script in re.findall(r"\bscripts/[\w.]*\w", text):
        assert (root / script).exists(), script


@pytest.mark.parametrize("page", PAGES)
def test_modules_named_in_a_page_exist(root: Path, page: str) -> None:
    for name in re.findall(r"`((?:\w+/)+[a-z]\w*\.py)\b", (root / page).read_text()):
        assert any((folder / name).exists() for folder in (root, root / "src", root / "src" / "gptcli")), name


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_in_a_page_have_those_options(root: Path, page: str) -> None:
    reference = (root / "docs" / "cli.md").read_text()
    sections = {match[1]: match[2] for match in re.finditer(r"## `gptcli ([^`]+)`(.*?)(?=\n## |\Z)", reference, re.S)}
    for line in re.findall(r"^(?:\w+ \S+ \| )?gptcli (.*)$", (root / page).read_text(), re.M):
        words = re.sub("'[^']*'", "''", line).split("#")[0].split()  # what is quoted may be another program's
        verb = " ".join(words[:2]) if " ".join(words[:2]) in sections else words[0]
        if verb.startswith("-"):
            continue
        assert verb in sections, line
        for option in re.findall(r"(?<=\s)(-{1,2}[a-z][\w-]*)", " ".join(words)):
            assert option in sections[verb], f"{option} in {line!r}"
        for name in re.findall(r"-c (\S+)", line):
            assert name.endswith(".toml") or name in shipped_configs(), line
