"""The screen of one run, from data alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from jobs.contract.events import AlarmEvent, StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import RetryAction, RootCause
from meditron_cli.reporting import speed
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.live.page import Asked, Curve, GpuReading, LogEnd, NodeReading, RunPage
from meditron_cli.reporting.live.run_screen import run_screen
from meditron_cli.runs.views import RunView, StageView

from ....metric_lines import period

NOW = 1_700_000_000.0
SLURM = Asked("slurm", NOW - 35, NOW + 25)


def stage(name: str, state: str, done: int = 0, total: int = 1, **more: Any) -> StageView:
    values: dict[str, Any] = {"step": None, "target_step": None, "tokens": None}
    values |= {"target_tokens": None, "task_states": {0: state}, **more}
    return StageView(name, state, total, done, 1, **values)


def view(*stages: StageView, state: str = "running") -> RunView:
    return RunView("med-7b-7a5942cb", state, "site", {item.stage: item for item in stages},
                   2.5, 3600.0, "")  # fmt: skip


TRAINING = stage("pretrain", "running", step=230, target_step=1000)
PIPELINE = (
    stage("curate", "succeeded", 1),
    stage("tokenize", "succeeded", 3, 3),
    TRAINING,
    stage("evaluate", "pending", 0, 2, pending_reason="Dependency"),
)


def attempt(number: int, began: float, ended: float | None = None, **more: Any) -> Attempt:
    """Return an attempt of training; times in seconds before now."""
    start = StartEvent(
        NOW - began, "pretrain", 0, number, str(number), NOW - began, nodes=("gpu07",)
    )
    if ended is None:
        return Attempt(start)
    fields = {"cause": RootCause.PREEMPTED, "action": RetryAction.REQUEUE, **more}
    end = ExitRecord(
        "pretrain",
        0,
        number,
        str(number),
        started=NOW - began,
        ended=NOW - ended,
        code=75,
        **fields,
    )
    return Attempt(start, end, NOW - ended)


ATTEMPTS = (
    attempt(1, 8000, 5000, reason="the partition was taken"),
    attempt(2, 4000, 3000, cause=RootCause.GPU_HARDWARE, node="gpu07", reason="XID 79 on GPU 3"),
    attempt(3, 2000),
)
GPUS = (
    *(GpuReading(98.0, 61.0, 650.0) for _ in range(6)),
    GpuReading(None, None, None),
    GpuReading(20.0, 88.0, 250.0, "WARN"),
)
FULL = RunPage(
    now=NOW,
    view=view(*PIPELINE),
    submitted_at=NOW - 9000,
    etas={"pretrain": 11100.0},
    training="pretrain",
    curve=Curve(range(1, 231), [3 - step / 230 for step in range(230)], (200, 2.25)),
    speed=speed._speed([period(230, mfu=0.412, tokens_per_s=12300.0)], 3.0, 3.5, 4.0),
    goodput=0.87,
    attempts=ATTEMPTS,
    open_attempts={("pretrain", 0, 3): "running"},
    last_steps={("pretrain", 0, 1): 100, ("pretrain", 0, 2): 180},
    nodes=(NodeReading("gpu07", NOW - 8, GPUS), NodeReading("gpu08", NOW - 200, GPUS[:2])),
    alarms=(
        AlarmEvent(
            NOW - 900, "pretrain", 0, 2, "slow_steps", "WARN", "steps take 1.4 times as long"
        ),
        AlarmEvent(NOW - 60, "pretrain", 0, 3, "temperature", "WARN", "GPU 7: 88 °C", "gpu07"),
    ),
    log=LogEnd("stages/pretrain/attempts/3/ranks-00000.log", ("one", "\x1b[2Jtwo", "three")),
    asked=SLURM,
)


def shown(page: RunPage, width: int = 80, height: int = 50, ascii_only: bool = False) -> list[str]:
    return [row.plain.rstrip() for row in run_screen(page, (width, height), ascii_only)]


def text(page: RunPage, width: int = 80, height: int = 50) -> str:
    return "\n".join(shown(page, width, height))


def test_all_of_a_run_is_on_one_screen() -> None:
    found = text(FULL)

    for part in (
        "med-7b-7a5942cb  running  site",
        "loss 2.004  validation 2.25  tokens/s 12,300  MFU 41.2%  step 3 s  goodput 87%",
        "pretrain running   ━━━━━━──",
        "230/1000 steps  3h 05m left",
        "evaluate pending",
        "── loss of pretrain, steps 1 to 230; validation 2.25 after 200 ──",
        "3 attempts since",
        ": 1 preempted, 1 gpu hardware",
        "pretrain 3 33m 20s  running on gpu07",
        "pretrain 2 16m 40s  to step 180  gpu hardware, requeue on gpu07: XID 79 on GPU 3",
        "gpu07 ████████████??▂▂   87 %  88 °C  4.2 kW",
        "gpu08 ████  no report for 3m 20s",
        "WARN temperature gpu07: GPU 7: 88 °C",
        "── log stages/pretrain/attempts/3/ranks-00000.log ──",
        "q leaves  Slurm answered 35 s ago, asked again in 25 s",
    ):
        assert part in found, part
    assert "\x1b" not in found


def test_a_wide_screen_has_two_columns() -> None:
    rows = shown(FULL, 160, 30)

    row = next(row for row in rows if "stages" in row)
    assert row.index("── stages") == 0
    assert row.index("── GPUs") == 81


@pytest.mark.parametrize("width", [1, 7, 20, 40, 63, 80, 139, 140, 160, 300])
@pytest.mark.parametrize("height", [1, 2, 5, 12, 24, 50])
def test_a_screen_is_filled_and_never_exceeded(width: int, height: int) -> None:
    for page in (FULL, RunPage(NOW, view())):
        rows = shown(page, width, height)

        assert len(rows) == height
        assert max(map(cell_len, rows)) <= width


def test_forty_columns_have_every_section() -> None:
    found = text(FULL, 40, 45)

    for part in ("stages", "loss of", "attempts", "GPUs", "alarms", "log ", "3h 05m", "q leaves"):
        assert part in found, part


def test_a_low_screen_keeps_what_matters_most() -> None:
    failed = RunPage(
        NOW,
        view(*PIPELINE, state="failed"),
        errors=[
            "pretrain task 0: no space left",
            "hint: `meditron resume med-7b-7a5942cb` continues it",
        ],
        log=FULL.log,
        curve=FULL.curve,
        attempts=ATTEMPTS,
    )
    found = text(failed, 80, 10)

    assert "hint: `meditron resume med-7b-7a5942cb` continues it" in found
    assert "pretrain task 0: no space left" in found
    assert "pretrain running" in found
    assert "loss of" not in found


@pytest.mark.parametrize("height", [8, 24])
def test_of_many_errors_the_first_and_how_to_continue_are_shown(height: int) -> None:
    errors = [f"curate task {index}: job 7_{index} ended" for index in range(10_000)]
    hint = "hint: `meditron resume med-7b-7a5942cb --runs-dir /a/b` continues it"
    found = shown(RunPage(NOW, view(*PIPELINE), errors=[*errors, hint]), 60, height)

    place = found.index(errors[0])
    assert found[place + 1] == errors[1]
    assert "`meditron resume med-7b-7a5942cb --runs-dir /a/b`" in "\n".join(found)


def test_a_command_is_broken_only_where_it_does_not_fit() -> None:
    hint = "hint: `meditron resume med-7b-7a5942cb --runs-dir /a/b` releases it"
    waits = RunPage(NOW, view(*PIPELINE), waiting=["pretrain: Slurm holds it", hint])

    assert "`meditron resume med-7b-7a5942cb --runs-dir /a/b`" in shown(waits, 52, 20)
    assert "--runs-dir /a/b` releases it" in shown(waits, 40, 20)


def test_finished_stages_give_way_to_those_that_run() -> None:
    found = text(RunPage(NOW, view(*PIPELINE)), 80, 7)

    assert "2 stages finished" in found
    assert "tokenize" not in found
    assert "pretrain running" in found


def test_a_pending_stage_has_its_reason_and_start() -> None:
    waits = stage("pretrain", "pending", pending_reason="Priority", expected_start=NOW + 3600)
    found = text(RunPage(NOW, view(waits, state="pending"), asked=SLURM))

    assert "  Priority, starts about 20" in found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(), "nothing runs or waits"),
        (Asked("local", NOW, NOW), "q leaves"),
        (Asked("slurm"), "waiting for Slurm"),
        (Asked("slurm", NOW - 5, NOW, silent=True), "Slurm does not answer, asked again in 0 s"),
        (Asked("slurm", NOW - 99, NOW - 84, asking=True), "answered 99 s ago, asked now"),
    ],
)
def test_the_last_line_tells_how_old_the_answer_is(asked: Asked, words: str) -> None:
    assert words in shown(RunPage(NOW, view(TRAINING), asked=asked))[-1]


def test_the_last_line_has_the_reason_why_a_run_cannot_be_read() -> None:
    page = replace(FULL, problem="plan.json cannot be read: Stale file handle")

    assert shown(page)[-1] == "plan.json cannot be read: Stale file handle"


def test_more_nodes_than_lines_are_counted_and_those_with_findings_come_first() -> None:
    nodes = [NodeReading(f"gpu{number:02d}", NOW, GPUS[:6]) for number in range(64)]
    nodes[40] = NodeReading("gpu40", NOW, GPUS)
    found = text(RunPage(NOW, view(TRAINING), nodes=nodes), 80, 12)

    assert "gpu40 ████████████??▂▂" in found
    assert "nodes more, 98 % in the mean" in found
    assert "\n64 nodes, " in text(RunPage(NOW, view(TRAINING), nodes=nodes), 80, 6)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    log = LogEnd("ranks.log", ("a long line of Zürich and 東京 " * 9,))
    found = "\n".join(shown(replace(FULL, log=log), ascii_only=True))

    assert found.isascii()
    assert "pretrain running   ######---" in found


def test_an_attempt_of_which_slurm_does_not_report_is_unknown() -> None:
    page = replace(FULL, open_attempts={("pretrain", 0, 3): "unknown"})

    assert "pretrain 3 33m 20s  unknown on gpu07" in text(page)


@pytest.mark.parametrize(("width", "name"), [(80, "evaluate[1] 1 8m"), (40, "#1[1] 8m")])
def test_attempts_of_a_stage_of_several_tasks_name_the_task(width: int, name: str) -> None:
    began = StartEvent(NOW - 500, "evaluate", 1, 1, "7_1", NOW - 500)
    page = replace(FULL, attempts=[Attempt(began)], open_attempts={("evaluate", 1, 1): "running"})

    assert name in text(page, width)


def test_every_stage_has_its_strip_where_no_attempt_broke_off() -> None:
    ends = {"cause": RootCause.COMPLETED, "action": RetryAction.FINISH}
    attempts = []
    for place, name in enumerate(("curate", "tokenize", "index")):
        item = attempt(1, 900 - 100 * place, 850 - 100 * place, **ends)
        assert item.end is not None
        start, end = replace(item.start, stage=name), replace(item.end, stage=name)
        attempts.append(Attempt(start, end, item.ended))
    found = shown(RunPage(NOW, view(*PIPELINE), attempts=attempts))

    strips = found[next(place for place, row in enumerate(found) if "3 attempts" in row) + 1 :]
    assert [row.split()[0] for row in strips[:3]] == ["curate", "tokenize", "index"]


def test_an_attempt_that_has_finished_its_task_is_not_listed_as_one_without_an_end() -> None:
    done = stage("pretrain", "succeeded", 1, step=1000, target_step=1000)
    page = RunPage(NOW, view(done), attempts=[attempt(1, 900)],
                   open_attempts={("pretrain", 0, 1): "succeeded"})  # fmt: skip

    assert "not recorded" not in text(page)
    assert "pretrain 1" not in text(page)


def test_long_names_of_nodes_differ() -> None:
    names = [f"a-rather-long-name-{number:03d}" for number in (17, 18)]
    nodes = [NodeReading(name, NOW, GPUS) for name in names]

    assert "a-rath…me-017 " in (found := text(RunPage(NOW, view(TRAINING), nodes=nodes), 40, 24))
    assert "a-rath…me-018 " in found


def test_an_attempt_without_an_end_that_does_not_run_is_not_recorded() -> None:
    page = RunPage(NOW, view(TRAINING), attempts=[attempt(1, 900), attempt(2, 500)],
                   open_attempts={("pretrain", 0, 2): "running"})  # fmt: skip
    found = text(page)

    assert "pretrain 1 15m 00s  not recorded" in found
    assert "pretrain 2 8m 20s  running" in found
