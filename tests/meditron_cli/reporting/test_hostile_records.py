"""Records of a run that no program of ours writes: impossible times, other types, huge numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import notification
from jobs.contract.files import write_json
from jobs.contract.json_fields import LATEST
from jobs.contract.rundir import RunDir
from jobs.health import node_ledger
from jobs.notification import __main__ as notifier
from jobs.notification.outbox import Outbox
from meditron_cli.reporting.live.run_screen import run_screen
from meditron_cli.reporting.live.watched import WatchedRun

from ...conftest import Bench
from ...metric_lines import append, period, validation
from ...monitor_reports import write_report
from ...progress_files import write_progress
from ..task_records import TaskRecords, interrupt_once

TIMES = {
    "time", "began", "eligible", "started", "ended", "expires", "tries", "sent", "keys",
}  # fmt: skip
"""Keys of times in the files of a run."""
IMPOSSIBLE = (
    1e300, float("nan"), float("inf"), 10**400, LATEST, -1.0, "yesterday", None, [[]],
)  # fmt: skip
COUNTS = {"step", "tokens", "memory_bytes", "period", "consumed_samples"}
NO_COUNT = (10**400, 1 << 70, 1.5, "3", None, True)
MARK = "not-written-by-us"


@pytest.fixture
def records(meditron: Bench, finish: Callable[..., None], tmp_path: Path) -> TaskRecords:
    """Return a run that trains, with alarms, a node in the ledger and a receiver of messages."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    records = interrupt_once(run)
    now = records.zero + 300
    append(run, period(12, attempt=2, time=now), validation(12, attempt=2, time=now))
    where = {"stage": "pretrain", "index": 0, "attempt": 2}
    alarm = {**where, "code": "xid", "verdict": "WARN", "node": "node1", "message": "hot"}
    records.event("alarm", 250, **alarm)
    gpu = {"index": 0, "utilisation": 90.0, "power": 1000.0}
    write_report(run.attempt("pretrain", 2), "node1", newest=[gpu], time=now)
    write_progress(run, "pretrain", loss=2.5)
    secrets = tmp_path / "secrets.env"
    secrets.write_text("me=command:/bin/true\n")
    secrets.chmod(0o600)
    targets = (notification.NotifyTarget("me", notification.EVENTS),)
    notification.write(run, notification.NotifySettings(targets, str(secrets)))
    notifier.send_new(run)
    entries = [node_ledger.strike("node1", "FATAL", "xid", "e", now)]
    node_ledger.append(node_ledger.ledger(meditron.runs, "local"), entries)
    return records


def with_times(value: Any, moment: Any, inside: bool = False) -> Any:
    """Return a JSON value in which all times are another one."""
    if isinstance(value, dict):
        return {k: with_times(v, moment, inside or k in TIMES) for k, v in value.items()}
    if isinstance(value, list):
        return [with_times(item, moment, inside) for item in value]
    return moment if inside else value


def all_views(meditron: Bench, run: RunDir, folder: Path) -> list[str]:
    """Return what all views of a run print, of which none fails."""
    page = folder / "page.html"
    results = [
        meditron(*words)
        for words in (
            ("status",),
            ("status", run.name),
            ("status", run.name, "--json"),
            ("report", run.name),
            ("report", run.name, "--json"),
            ("report", run.name, "--html", str(page)),
            ("notify", run.name),
            ("nodes", "--cluster", "local", "--all"),
        )
    ]
    assert [result.stderr for result in results if "internal error" in result.stderr] == []
    assert [result.exit_code for result in results] == [0] * len(results), results
    notifier.send_new(run)
    watched = WatchedRun(meditron.services(), run)
    lines = run_screen(watched.read(time.time()), (150, 50))
    return [*(result.stdout for result in results), *(line.plain for line in lines)]


def test_records_of_impossible_times_and_counts_are_left_out(
    meditron: Bench, records: TaskRecords, tmp_path: Path
) -> None:
    run = records.run
    for path in (*run.root.rglob("*.jsonl"), *meditron.runs.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:  # the same once more, as of other nodes and attempts
            line["node"], line["message"], line["attempt"] = MARK, MARK, 9
        changed = [with_times(line, moment) for line in lines for moment in IMPOSSIBLE]
        changed += [
            {**line, key: count} for line in lines for key in COUNTS & {*line} for count in NO_COUNT
        ]
        with path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in changed)
    for path in (run.progress("pretrain", 0), run.notify_state, *run.root.rglob("monitor-*.json")):
        path.write_text(json.dumps(with_times(json.loads(path.read_text()), 1e300)))

    shown = all_views(meditron, run, tmp_path)

    assert [text for text in shown if MARK in text] == []
    assert any("hot" in text for text in shown)


@pytest.mark.parametrize("moment", IMPOSSIBLE, ids=repr)
def test_a_state_of_notifications_with_an_impossible_time_is_none(moment: object) -> None:
    item = {"event": "alarm", "text": "hot", "time": 1.0, "count": 1}
    receiver = {"items": {"a": item}, "tries": [1.0], "sent": {"a": 1.0}, "error": ""}
    state = {"offset": 7, "keys": {"k": 1.0}, "receivers": {"me": receiver}, "problem": ""}
    wrong = [
        {**state, "keys": {"k": moment}},
        *(
            {**state, "receivers": {"me": {**receiver, **part}}}
            for part in (
                {"tries": [moment]},
                {"sent": {"a": moment}},
                {"items": {"a": {**item, "time": moment}}},
            )
        ),
    ]

    assert Outbox.from_json(state).to_json() == state
    assert [Outbox.from_json(value) for value in wrong] == [Outbox()] * 4


@pytest.mark.parametrize("offset", [-1, 1 << 62, 1e300, float("nan"), "7", None])
def test_a_state_of_notifications_with_no_offset_is_none(offset: object) -> None:
    state = {"offset": offset, "keys": {}, "receivers": {}, "problem": "x"}

    assert Outbox.from_json(state) == Outbox()


RESULT = {
    "benchmark": "quiz", "checkpoint_step": 0, "n": 4, "accuracy": 0.25, "ci95": [0.1, 0.5],
    "chance": 0.25, "p_value": 0.5,
}  # fmt: skip
JUDGED = {
    "mode": "judged", "benchmark": "b", "checkpoint": "last", "other": "", "n": 3, "verdicts": 3,
    "unparsable": 0, "score": 0.5, "ci95": [0.1, 0.6],
    "judge": {"name": "j", "sha256": "d" * 64, "temperature": 0.0},
}  # fmt: skip
VERIFIED = {
    "step": 3, "tolerance": 1e-3, "logits": {"max": 0.0, "mean": 0.0, "agreement": 1.0},
    "generation": None, "problems": [],
}  # fmt: skip
SCORE, JUDGEMENT, VERIFICATION = (
    "evaluations/quiz/{}/results.json",
    "evaluations/judged/{}/results.json",
    "verification/convert-{}.json",
)
DAMAGES: tuple[tuple[str, dict[str, Any]], ...] = (
    (SCORE, {**RESULT, "majority": ["x"]}),
    (SCORE, {**RESULT, "kind": "pubmedqa", "accuracy": 2.0}),
    (SCORE, {**RESULT, "kind": "pubmedqa", "n": 0}),
    (SCORE, {**RESULT, "digests": ["x"]}),
    (SCORE, {**RESULT, "mode": float("nan")}),
    (SCORE, {**RESULT, "shots": 1e300}),
    (SCORE, {**RESULT, "permutations": {"accuracies": []}}),
    (JUDGEMENT, {**JUDGED, "score": "good"}),
    (JUDGEMENT, {**JUDGED, "judge": {"name": "j"}}),
    (JUDGEMENT, {**JUDGED, "human": {"n": 3, "kappa": "much"}}),
    (VERIFICATION, {**VERIFIED, "tolerance": 10**400}),
    (VERIFICATION, {**VERIFIED, "generation": {"rates": {"base": "x"}}}),
)


def test_results_of_other_types_are_left_out(
    meditron: Bench, records: TaskRecords, tmp_path: Path
) -> None:
    for place, (name, content) in enumerate(DAMAGES):
        write_json(records.run.path(name.format(place)), content)

    all_views(meditron, records.run, tmp_path)

    report = json.loads(meditron("report", records.run.name, "--json").stdout)
    assert [report[key] for key in ("evaluations", "judged", "verifications")] == [[], [], []]


def test_a_submission_to_an_unknown_scheduler_is_shown(
    meditron: Bench, records: TaskRecords, tmp_path: Path
) -> None:
    where = {"stage": "evaluate", "attempt": 2, "indices": [0], "job_ids": ["7"]}
    records.event("submit", 300, scheduler="pigeon", **where)

    all_views(meditron, records.run, tmp_path)
