"""The work behind a list of checkpoints."""

from __future__ import annotations

from gptcli.checkpoint.report import report_checkpoints
from gptcli.checkpoint.run_directory import RunDirectory


def test_a_list_looks_for_the_best_checkpoint_once(run, save, monkeypatch) -> None:
    for step, val_loss in [(1, 2.0), (2, 1.5), (3, 1.5), (4, None)]:
        save(step, val_loss)
    report = report_checkpoints(run.path)
    searches, best = [], RunDirectory.best
    monkeypatch.setattr(RunDirectory, "best", lambda self: (searches.append(self), best(self))[1])
    assert [entry["is_best"] for entry in report.as_dict()["checkpoints"]] == [False, True, False, False]
    assert [line.endswith("best") for line in report.text().splitlines()] == [False, False, True, False, False]
    assert len(searches) == 2
