"""stdout closed, full or given up: one line and an exit code. stderr closed or full: nothing at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "import sys; from gptcli.cli.app import main; sys.argv[0] = 'gptcli'; main()"
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
FULL = pytest.param(">/dev/full", 5, "gptcli: cannot write to stdout: No space left", marks=needs_full)


def run(arguments: str, streams: str, code: str = CODE) -> subprocess.CompletedProcess[str]:
    """The command in a shell that redirects its streams."""
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("bash is not installed")
    script = f'set -o pipefail; "$0" -P -c "$1" {arguments} {streams}'
    return subprocess.run(
        [shell, "-c", script, sys.executable, code],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        FULL,
        (">&-", 5, "gptcli: cannot write to stdout: Bad file descriptor"),
        ("2>&-", 0, ""),
        pytest.param("2>/dev/full", 0, "", marks=needs_full),
        ("<&-", 0, ""),
        ("<&- 2>&-", 0, ""),
        pytest.param(">/dev/full 2>&1", 5, "", marks=needs_full),
        (">&- 2>&- <&-", 5, ""),
    ],
)
def test_what_cannot_be_printed_decides_the_exit_code(streams: str, code: int, said: str) -> None:
    done = run("config list", streams)
    assert (done.returncode, done.stderr.count("\n")) == (code, int(bool(said))), done.stderr
    assert done.stderr.startswith(said)
    assert code or "gpt2-124m" in done.stdout


def test_a_reader_that_leaves_ends_the_command_without_a_word() -> None:
    many = "import sys; from gptcli.cli import app; app.app = lambda: [print(n) for n in range(10**6)]; app.main()"
    done = run("", "| head -n 1", many)
    assert (done.returncode, done.stdout, done.stderr) == (141, "0\n", "")


@needs_full
def test_an_error_stays_the_first_one_where_nothing_can_be_printed() -> None:
    done = run("checkpoint list nowhere", ">/dev/full")
    assert done.returncode == 4 and done.stderr.startswith("gptcli: nowhere does not exist")
    assert run("checkpoint list nowhere", ">/dev/full 2>/dev/full").returncode == 4


def test_a_closed_descriptor_is_not_given_to_a_file() -> None:
    """The next file that is opened would get it, and with it what libraries write to stderr."""
    code = (
        "import os, sys\n"
        "from gptcli.cli import app\n"
        "def command():\n"
        "    descriptor = os.open('/dev/null', os.O_RDONLY)\n"
        "    print(descriptor)\n"
        "    os.write(2, b'a warning')\n"
        "    print('talk', file=sys.stderr)\n"
        "app.app = command\n"
        "app.main()"
    )
    done = run("", "2>&- <&-", code)
    assert (done.returncode, done.stderr) == (0, "") and int(done.stdout) > 2


def test_a_closed_stdin_is_not_an_empty_text() -> None:
    done = run("generate nowhere -", "<&-")
    assert done.returncode == 5 and done.stderr.startswith("gptcli: cannot read stdin: Bad file descriptor")


def test_an_interrupt_that_nobody_catches_is_one_exit_code() -> None:
    code = "from gptcli.cli import app\ndef command(): raise KeyboardInterrupt\napp.app = command\napp.main()"
    done = run("", "", code)
    assert (
        done.returncode == 130 and done.stderr.startswith("gptcli: stopped by SIGINT") and done.stderr.count("\n") == 1
    )


def test_an_interrupt_waits_for_no_call_into_a_library() -> None:
    """A thread that returns from such a call while the interpreter ends would abort the process."""
    code = (
        "import time\n"
        "from gptcli.cli import app\n"
        "from gptcli.interruptible import CallThread\n"
        "def command():\n"
        "    CallThread(lambda: time.sleep(60))\n"
        "    print('begun')\n"
        "    raise KeyboardInterrupt\n"
        "app.app = command\n"
        "app.main()"
    )
    done = run("", "", code)
    assert (done.returncode, done.stdout) == (130, "begun\n")


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    code = "from gptcli.cli import app\ndef command(): raise ZeroDivisionError\napp.app = command\napp.main()"
    done = run("", "", code)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


def test_debug_shows_the_traceback_beside_the_line_and_keeps_the_exit_code() -> None:
    done = run("--debug checkpoint list nowhere", "")
    assert done.returncode == 4 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gptcli: nowhere does not exist")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", b"x" * 300, b"~nobody-of-that-name/x.txt", b"a\nb\x1b[31m", b"", b"."]
)
@pytest.mark.parametrize("verb", ["checkpoint verify", "tokenizer inspect", "data inspect"])
def test_odd_names_are_one_line(verb: str, name: bytes, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gptcli", *verb.split(), name], capture_output=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode in (2, 3, 4, 5), done.stderr
    assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr and done.stderr.count(b"\n") <= 4


def test_a_working_directory_that_was_removed_is_one_line() -> None:
    code = "import os, tempfile\nwith tempfile.TemporaryDirectory() as folder: os.chdir(folder)\n" + CODE
    for arguments in ("config list", "train book.txt"):
        done = run(arguments, "", code)
        assert done.returncode == 5 and done.stderr.startswith(
            "gptcli: the working directory cannot be used: No such file"
        )


def test_a_corpus_whose_name_is_not_utf_8_is_named(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    command = [sys.executable, "-P", "-m", "gptcli", "train", name, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "caf\\udce9.txt' has bytes that are not UTF-8; rename the file" in done.stderr


def test_an_error_without_memory_for_its_message_is_one_line() -> None:
    code = (
        "import sys; from gptcli.cli import app, known_errors\n"
        "def fail(*anything):\n    raise MemoryError\n"
        "app.app = known_errors.as_gptcli_error = fail; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr.startswith("gptcli: the memory limit") and done.stderr.count("\n") == 1
