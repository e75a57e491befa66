"""The scripts for clusters, run with stand-ins for Slurm's commands; and that SkyPilot's file has fields it knows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STAND_INS = {
    # Runs the command as Slurm would on one machine of the job, and tells scancel which process that is.
    "srun": 'echo "srun $*" >> "$CALLS"; shift 2; "$@" & echo $! > "$STEP"; wait $!',
    "scancel": 'echo "scancel $*" >> "$CALLS"; kill -TERM "$(cat "$STEP")"',
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; [ "$1" = show ] && printf "node7\\nnode8\\n"; true',
    # A training that saves and leaves when it is asked to, taking its time.
    "gptcli": 'trap "sleep 0.2; echo saved >> \\"$CALLS\\"; exit 143" TERM; echo ready >> "$CALLS"; '
    'for _ in $(seq "$LENGTH"); do sleep 0.05; done; exit "$CODE"',
}
SLURM = {"SLURM_JOB_ID": "31415", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_GPUS_ON_NODE": "8"}


class Job:
    """A started batch script."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        *,
        nodes: int = 1,
        length: int = 1,
        code: int = 0,
        arguments: tuple[str, ...] = ("/shared/run", "my text.txt", "-c", "llama3-8b"),
        **stand_ins: str,
    ) -> None:
        for name, body in {**STAND_INS, **stand_ins}.items():
            path = folder / name
            path.write_text(f"#!/usr/bin/env bash\n{body}\n")
            path.chmod(0o755)
        self.calls = folder / "calls"
        self.calls.touch()
        environment = {
            **os.environ, **SLURM, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NUM_NODES": str(nodes),
            "CALLS": str(self.calls), "STEP": str(folder / "step"), "LENGTH": str(length), "CODE": str(code),
        }  # fmt: skip
        script = root / "scripts" / "launch" / "slurm.sbatch"
        with (folder / "stderr").open("a") as stderr:
            self.process = subprocess.Popen(["bash", str(script), *arguments], env=environment, stderr=stderr)

    def wait_for(self, has_happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not has_happened():
            assert time.monotonic() < deadline and self.process.poll() is None, self.calls.read_text()
            time.sleep(0.01)

    def end(self) -> tuple[int, list[str]]:
        return self.process.wait(120), self.calls.read_text().splitlines()


def test_one_machine_trains_with_a_process_for_each_gpu_and_is_not_requeued_when_done(
    root: Path, tmp_path: Path
) -> None:
    code, calls = Job(root, tmp_path, nodes=1, length=1).end()
    assert code == 0 and calls[1:] == ["ready"]
    assert calls[0] == (
        "srun --ntasks-per-node=1 --kill-on-bad-exit=1 "
        "gptcli train my text.txt -c llama3-8b --out /shared/run --resume --nproc 8"
    )


def test_many_machines_meet_at_the_first(root: Path, tmp_path: Path) -> None:
    code, calls = Job(root, tmp_path, nodes=2, length=1).end()
    assert code == 0 and calls[0] == "scontrol show hostnames node[7-8]"
    assert calls[1].endswith("--nproc 8 --nnodes 2 --rdzv node7:21415")


def test_before_the_time_is_up_the_training_saves_and_the_job_is_requeued(root: Path, tmp_path: Path) -> None:
    job = Job(root, tmp_path, nodes=2, length=400)
    job.wait_for(lambda: "ready" in job.calls.read_text())
    job.process.send_signal(signal.SIGUSR1)
    code, calls = job.end()
    assert code == 143
    assert calls[-3:] == ["scancel --signal=TERM 31415", "saved", "scontrol requeue 31415"]


@pytest.mark.slow
def test_the_signal_reaches_real_ranks_which_save_and_the_next_start_resumes(root: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("a rose is a rose is a rose. " * 400)
    run, folder = tmp_path / "run", tmp_path / "bin"
    folder.mkdir()
    settings = {"model.n_embd": 32, "model.n_layer": 1, "train.max_steps": 100_000, "train.tokens_per_step": 128,
                "train.log_every_steps": 1, "train.checkpoint_every_steps": 100_000, "train.sample_every_steps": 0,
                "train.eval_every_steps": 100_000, "device": "cpu"}  # fmt: skip
    assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    steps = []
    for _ in range(2):
        job = Job(
            root, folder, arguments=(str(run), str(tmp_path / "book.txt"), *assignments),
            gptcli=f'export OMP_NUM_THREADS=1; exec {sys.executable} -m gptcli "${{@/#8/2}}"',
        )  # fmt: skip
        reached = last_step(run)
        job.wait_for(lambda reached=reached: last_step(run) > reached + 3)
        job.process.send_signal(signal.SIGUSR1)
        code, calls = job.end()
        assert code == 143 and calls[-1] == "scontrol requeue 31415", (folder / "stderr").read_text()
        steps.append(last_step(run))
        assert (run / "checkpoints" / f"step-{steps[-1]:08d}" / "manifest.json").is_file()
    assert steps[1] > steps[0] and "2 (ddp: 2 replicas)" in (folder / "stderr").read_text()
    logged = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, steps[1] + 1)), "no step is missing and none is twice"


def last_step(run: Path) -> int:
    """Of the newest line of the run's metrics; 0 where there is none yet."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def test_a_training_that_fails_by_itself_is_not_started_again(root: Path, tmp_path: Path) -> None:
    code, calls = Job(root, tmp_path, nodes=1, length=1, code=6).end()
    assert code == 6 and calls[-1] == "ready"


def test_a_job_without_a_run_or_a_corpus_says_how_it_is_used(root: Path) -> None:
    script = root / "scripts" / "launch" / "slurm.sbatch"
    done = subprocess.run(["bash", str(script), "run"], capture_output=True, text=True)
    assert done.returncode == 2 and "RUN CORPUS" in done.stderr
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_slurm_is_told_all_that_the_script_relies_on(root: Path) -> None:
    text = (root / "scripts" / "launch" / "slurm.sbatch").read_text()
    head, body = text.split("set -euo pipefail")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", head, re.M))
    assert options["signal"].startswith("B:USR1@") and "trap leave USR1" in body
    assert options["ntasks-per-node"] == "1" and "requeue" in options and options["open-mode"] == "append"
    assert "#SBATCH" not in body, "Slurm reads none after the first command"


def spot(root: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((root / "scripts" / "launch" / "spot.yaml").read_text())


def test_spot_machines_have_the_fields_that_skypilot_documents(root: Path) -> None:
    task = spot(root)
    assert set(task) <= {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run"}
    known = {"infra", "accelerators", "cpus", "memory", "use_spot", "disk_size", "disk_tier", "network_tier",
             "ports", "any_of", "ordered", "image_id", "job_recovery"}  # fmt: skip
    assert set(task["resources"]) <= known and task["resources"]["use_spot"] is True
    assert set(task["resources"]["job_recovery"]) <= {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    (mount,) = task["file_mounts"].values()
    assert mount["mode"] == "MOUNT_CACHED", "checkpoints are renamed, which a plain bucket mount cannot"
    assert all(isinstance(value, str) for value in task["envs"].values())


def test_the_command_on_spot_machines_trains_into_the_bucket_and_resumes(root: Path, tmp_path: Path) -> None:
    task = spot(root)
    (tmp_path / "gptcli").write_text('#!/usr/bin/env bash\nprintf "%s|" "$@"\n')
    (tmp_path / "gptcli").chmod(0o755)
    environment = {
        **task["envs"], "PATH": f"{tmp_path}:{os.environ['PATH']}", "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_NUM_NODES": "2",
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", task["run"]], env=environment, capture_output=True, text=True)
    words = done.stdout.split("|")
    assert words[:2] == ["train", task["envs"]["CORPUS"]] and "--resume" in words
    assert words[words.index("--out") + 1].startswith(f"{next(iter(task['file_mounts']))}/")
    assert words[words.index("--rdzv") + 1] == "10.0.0.4:29400"
    assert words[words.index("--nproc") + 1 : words.index("--nproc") + 4] == ["8", "--nnodes", "2"]
