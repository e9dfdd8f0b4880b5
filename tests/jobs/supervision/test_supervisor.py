"""The batch step: real supervisors over ranks that do what each test needs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.contract import rundir, specs
from jobs.contract.errors import FAILED
from jobs.contract.events import append_event, read_events
from jobs.contract.files import FORMAT, read_json, write_json
from jobs.contract.job import LOCAL_JOB
from jobs.supervision import attempt_runner, node_monitors
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks import launcher, local_ranks

from ... import system
from ...corpus_specs import curate_spec
from ...disks import fill, mounted
from ...exits import exits
from ...fake_nvml import build, environment, write_readings
from ...ranks import (
    DEAF,
    FINISH,
    LINGER,
    PATIENCE,
    is_gone,
    processes_about,
    rank_program,
    wait_until,
)
from ...task_specs import task_spec

REPOSITORY = Path(__file__).parents[3]
NODE = os.uname().nodename
UNFIT = {"gpus": 1, "min_shm_gb_per_gpu": 1e9, "skip": ["gpu_count", "driver"]}
"""Requirements that no node fulfils."""
HEALTH = f"health-00000-{NODE}.json"

SUPERVISE = """
import json, sys
from pathlib import Path
from jobs.contract import rundir
from jobs.supervision import attempt_runner, supervisor
run, attempt, limits = rundir.RunDir(Path(sys.argv[1])), int(sys.argv[2]), json.loads(sys.argv[3])
sys.exit(supervisor.supervise(run, "curate", 0, attempt, attempt_runner.Limits(**limits)))
"""

QUICK = {
    "lock_seconds": PATIENCE,
    "preflight_seconds": PATIENCE,
    "peers_seconds": 0.5,
    "leave_seconds": PATIENCE,
}

AGAIN = specs.SupervisionSpec(retry_delay_seconds=0, storage_delay_seconds=0)
"""Starts again as often as usual, and at once."""
UNTIL_RESUMED = dataclasses.replace(AGAIN, storage_delay_seconds=600)
"""Starts again at once, after a full disk when a person resumes the run."""
ONCE = dataclasses.replace(AGAIN, attempts_without_progress=1)
"""The first failure is the last."""


@dataclass
class Bench:
    """A run with one task, and supervisors started for it."""

    run: rundir.RunDir
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def task(self, *program: str, ranks: int = 1, **changes: Any) -> specs.TaskSpec:
        """Write the task's spec; its ranks run the lines of `program`, or the real stage."""
        python: tuple[str, ...] = (sys.executable,)
        if program:
            python = rank_program(self.run.root, *program)
        spec = curate_spec(self.run.root / "missing.jsonl")
        fields = {"supervision": ONCE, **changes}
        task = task_spec("curate", spec, ranks=ranks, python=python, **fields)
        write_json(self.run.spec("curate", 0), specs.to_json(task))
        return task

    def start(
        self, attempt: int = 1, environ: dict[str, str] | None = None, **limits: float
    ) -> subprocess.Popen[str]:
        """Start a supervisor in the background."""
        words = [str(self.run.root), str(attempt), json.dumps({**QUICK, **limits})]
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, *words],
            cwd=REPOSITORY,
            env={**os.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a supervisor; its exit code and all it printed."""
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def supervise(self, attempt: int = 1, **limits: float) -> dict[str, Any]:
        """Run a supervisor to its end; return its last record, whose code is the exit code."""
        code, output = self.end(self.start(attempt, **limits))
        record = self.record(self.run.attempts("curate")[-1])
        assert record["code"] == code, output
        return record

    def record(self, attempt: int = 1) -> dict[str, Any]:
        return exits(self.run, "curate", attempt)[-1]

    def log(self, attempt: int = 1) -> str:
        """Return the ranks' output."""
        return (self.run.attempt("curate", attempt) / "ranks-00000.log").read_text()

    def wait_for(self, name: str) -> str:
        """Wait until a rank has written a file in the run; return its content."""
        path = self.run.root / name
        wait_until(lambda: path.exists() and path.read_text() != "")
        return path.read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    root = tmp_path / "run"
    root.mkdir()
    (root / "code").symlink_to(REPOSITORY)
    bench = Bench(rundir.RunDir(root))
    yield bench
    for process in bench.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ranks_that_finish_are_recorded_as_an_event(bench: Bench) -> None:
    bench.task(f"if rank == 0: {FINISH}", ranks=2)

    record = bench.supervise()

    assert (record["code"], record["class"]) == (0, "finished")
    assert (record["cause"], record["action"]) == ("completed", "finish")
    assert record["message"] == "curate reached its target"
    assert record["started"] < record["ended"]
    start, event = read_events(bench.run)
    assert {key: event[key] for key in record} == record
    assert (start["event"], event["event"]) == ("start", "exit")
    assert (start["attempt"], start["nodes"]) == (1, [os.uname().nodename])


def test_the_message_of_the_stage_is_that_of_the_record(bench: Bench) -> None:
    bench.task()  # the real stage, whose source is missing

    record = bench.supervise()

    assert (record["code"], record["class"]) == (2, "configuration")
    assert str(bench.run.root / "missing.jsonl") in record["message"]
    assert record["hint"]


def test_an_unforeseen_exception_is_one_line_with_its_type(bench: Bench) -> None:
    bench.task(
        "error = RuntimeError('no such thing\\n  at line 3')",
        "sys.exit(write_rank_exit(context, *describe_error(error)))",
    )

    record = bench.supervise()

    assert (record["code"], record["class"]) == (1, "failed")
    assert record["cause"] == "exception"
    assert record["message"] == f"rank 0 on {NODE} failed: RuntimeError: no such thing"


def test_a_rank_that_was_killed_is_recorded_with_its_signal(bench: Bench) -> None:
    bench.task("die(signal.SIGKILL)")

    record = bench.supervise()

    assert (record["code"], record["class"]) == (1, "failed")
    assert record["message"] == f"rank 0 on {NODE} was killed by SIGKILL"


def test_ranks_that_exit_with_0_and_no_marker_have_not_finished(bench: Bench) -> None:
    bench.task("pass")

    record = bench.supervise()

    sentence = "the ranks of attempt 1 of curate exited before their target"
    assert (record["code"], record["message"]) == (1, sentence)


def test_a_killed_rank_is_the_cause_and_not_what_its_peers_say_of_it(bench: Bench) -> None:
    bench.task(
        "from jobs.supervision.ranks.local_ranks import look_up",
        "if rank == 1:",
        "    context.path('peer').write_text(str(os.getpid()))",
        "    context.path('ready').touch()",
        "    die(signal.SIGKILL)",
        "wait_for('ready')",
        "while look_up(int(context.path('peer').read_text())): time.sleep(0.01)",
        "if rank == 0: say(1, 'lost a peer')",
        "time.sleep(60)",
        ranks=3,
    )

    record = bench.supervise()

    assert record["message"] == f"rank 1 on {NODE} was killed by SIGKILL"


def test_the_first_of_several_failed_ranks_is_the_cause(bench: Bench) -> None:
    bench.task(
        "if rank == 1: say(2, 'shard 7 is damaged', 'create it again')",
        "wait_for('stages/curate/attempts/1/rank-exit-00000-00001.json')",
        "say(1, 'Connection closed by peer')",
        ranks=3,
    )

    record = bench.supervise()

    sentence = "shard 7 is damaged"
    assert (record["code"], record["message"]) == (2, sentence)
    assert record["hint"] == "create it again"


def test_a_process_that_a_rank_started_is_killed_with_it(bench: Bench) -> None:
    bench.task(
        "import subprocess",
        "child = subprocess.Popen(['sleep', '600'])",
        "context.path('child').write_text(str(child.pid))",
        FINISH,
        "child.returncode = 0",
    )

    bench.supervise()

    child = int(bench.wait_for("child"))
    wait_until(lambda: is_gone(child))


def test_a_stop_request_reaches_the_ranks_which_save_and_exit(bench: Bench) -> None:
    bench.task(*LINGER, "say(130, 'saved step 7')", ranks=2)
    process = bench.start()
    bench.wait_for("ready")

    process.send_signal(signal.SIGTERM)
    code, _ = bench.end(process)

    record = bench.record()
    assert (code, record["code"], record["class"]) == (130, 130, "stopped")
    assert record["message"] == "attempt 1 of curate was stopped by a signal"
    kinds = [event["event"] for event in read_events(bench.run)]
    assert kinds == ["start", "signal", "exit"]


def test_work_that_is_done_before_the_stop_request_counts_as_finished(bench: Bench) -> None:
    bench.task(*LINGER, FINISH)
    process = bench.start()
    bench.wait_for("ready")

    process.send_signal(signal.SIGUSR2)

    assert bench.end(process)[0] == 0
    assert bench.record()["class"] == "finished"


def test_a_rank_that_cannot_save_on_a_stop_request_has_failed(bench: Bench) -> None:
    bench.task(*LINGER, "say(1, 'checkpoints: No space left on device')")
    process = bench.start()
    bench.wait_for("ready")

    process.send_signal(signal.SIGTERM)

    assert bench.end(process)[0] == 1
    record = bench.record()
    assert (record["cause"], record["action"]) == ("storage", "stop")
    assert "checkpoints: No space left on device" in record["message"]


def test_a_rank_stopped_before_it_listens_was_stopped_and_did_not_fail(bench: Bench) -> None:
    bench.task("context.path('ready').write_text('1')", "time.sleep(60)")
    process = bench.start()
    bench.wait_for("ready")

    process.send_signal(signal.SIGTERM)

    assert bench.end(process)[0] == 130
    assert bench.record()["message"] == "attempt 1 of curate was stopped by a signal"


def test_a_rank_deaf_to_the_stop_request_is_ended_after_a_grace(bench: Bench) -> None:
    bench.task(*DEAF)
    process = bench.start(leave_seconds=0.5)
    rank = int(bench.wait_for("ready"))

    process.send_signal(signal.SIGTERM)

    assert bench.end(process)[0] == 130
    assert bench.record()["message"] == "attempt 1 of curate was stopped by a signal"
    assert is_gone(rank)


def stand_in_preflight(bench: Bench, *lines: str) -> None:
    """Give the run a copy of the package whose pre-flight does something else."""
    bench.run.code.unlink()
    shutil.copytree(REPOSITORY / "jobs", bench.run.code / "jobs")
    text = "import pathlib, sys, time\nrun = pathlib.Path(sys.argv[1])\n" + "\n".join(lines)
    (bench.run.code / "jobs" / "health" / "preflight.py").write_text(text)


SLOW_PREFLIGHT = ("import os", "(run / 'looking').write_text(str(os.getpid()))", "time.sleep(600)")


def test_a_stop_request_during_the_pre_flight_starts_no_rank(bench: Bench) -> None:
    bench.task("context.path('started').touch()")
    stand_in_preflight(bench, *SLOW_PREFLIGHT)
    process = bench.start()
    bench.wait_for("looking")

    process.send_signal(signal.SIGTERM)

    assert bench.end(process)[0] == 130
    assert bench.record()["message"] == "attempt 1 of curate was stopped by a signal"
    assert not bench.run.path("started").exists()


def test_a_pre_flight_that_hangs_ends_the_task_and_names_the_node(bench: Bench) -> None:
    bench.task(FINISH)
    stand_in_preflight(bench, *SLOW_PREFLIGHT)

    record = bench.supervise(preflight_seconds=1.0)

    assert (record["code"], record["class"], record["node"]) == (5, "unhealthy", NODE)
    sentence = f"the preflight check of curate did not end within 1 s on {NODE}"
    assert record["message"] == f"{NODE} is unhealthy: {sentence} (preflight_silent)"
    wait_until(lambda: processes_about(bench.run.root) == [])


def test_an_unfit_node_is_named_with_its_reason(bench: Bench) -> None:
    bench.task(FINISH, health=UNFIT)

    record = bench.supervise()

    assert (record["code"], record["class"], record["node"]) == (5, "unhealthy", NODE)
    assert record["message"].startswith(f"{NODE} is unhealthy: ")
    assert record["message"].endswith("(shm)")


def test_a_full_disk_is_no_nodes_fault_and_is_looked_at_before_every_start(bench: Bench) -> None:
    bench.task("say(1, 'later')", health={"min_free_gb": 1e9}, supervision=AGAIN)

    record = bench.supervise()

    assert (record["code"], record["cause"], record["node"]) == (1, "storage", "")
    assert bench.run.attempts("curate") == list(range(1, 11))
    assert all((bench.run.attempt("curate", n) / HEALTH).exists() for n in range(1, 11))


def test_what_another_task_found_is_not_this_ones_fault(bench: Bench) -> None:
    bench.task(FINISH, health=UNFIT)
    other = {"node": "node99", "time": 1.0, "verdict": "FATAL", "findings": []}
    fault = {"verdict": "FATAL", "message": "3 of 4 GPUs answer", "code": "gpu_count"}
    folder = bench.run.attempt("curate", 1)
    write_json(folder / "health-00007-node99.json", {**other, "findings": [fault]})

    record = bench.supervise()

    assert "node99" not in record["message"] + record["node"]


def test_ranks_have_a_temporary_folder_that_is_removed_after_them(
    bench: Bench, tmp_path: Path
) -> None:
    scratch = tmp_path / "fast"
    tell = "import tempfile; context.path('seen').write_text(tempfile.mkdtemp())"
    bench.task(tell, FINISH, scratch_dir=str(scratch))

    record = bench.supervise()

    assert record["class"] == "finished"
    assert Path(bench.wait_for("seen")).parents[1] == scratch
    assert list(scratch.iterdir()) == []


def test_ranks_have_the_leave_seconds_of_their_stage(bench: Bench) -> None:
    task = bench.task(FINISH, leave_seconds=600)

    assert attempt_runner.Limits().leave_timeouts(task).leave_seconds == 600
    assert attempt_runner.Limits(leave_seconds=700).leave_timeouts(task).leave_seconds == 700


def test_an_unforeseen_error_of_the_supervisor_is_recorded(bench: Bench) -> None:
    """The preflight check writes a report without findings."""
    bench.task(FINISH)
    empty = f'{{"format": {FORMAT}}}'
    report = f"(run / 'stages/curate/attempts/1/{HEALTH}').write_text('{empty}')"
    stand_in_preflight(bench, report)

    code, output = bench.end(bench.start())

    record = bench.record()
    assert (code, record["code"], record["class"]) == (1, 1, "failed")
    assert record["message"].startswith("the supervisor of curate failed with KeyError: ")
    assert "Traceback" in output


def test_last_words_cut_short_are_no_words(bench: Bench) -> None:
    words = (
        "context.run.attempt('curate', 1).joinpath('rank-exit-00000-00009.json').write_text('{')"
    )
    bench.task(words, "sys.exit(3)")

    record = bench.supervise()

    assert record["message"] == f"rank 0 on {NODE} failed: exit code 3"


def test_a_pre_flight_that_breaks_is_a_failure_with_its_code(bench: Bench) -> None:
    bench.task(FINISH)
    stand_in_preflight(bench, "sys.exit(7)")

    record = bench.supervise()

    assert (record["code"], record["message"]) == (
        1,
        "the preflight check of curate ended with code 7",
    )


# ---- starting again


def test_a_killed_rank_is_started_again_in_place_and_finishes(bench: Bench) -> None:
    bench.task(
        "if context.attempt == 1 and rank == 1: die(signal.SIGKILL)",
        "if context.attempt == 1: time.sleep(60)",
        f"if rank == 0: {FINISH}",
        ranks=2,
        supervision=AGAIN,
    )

    record = bench.supervise()

    assert (record["attempt"], record["code"], record["action"]) == (2, 0, "finish")
    before = bench.record(1)
    assert (before["cause"], before["action"], before["code"]) == ("crash", "restart", 75)
    assert before["reason"] == (
        f"rank 1 on {NODE} was killed by SIGKILL; restarting from the beginning on the same "
        "nodes (restart 1 of 2)"
    )


def test_failures_without_progress_end_with_a_reason_and_a_record_each(bench: Bench) -> None:
    bench.task("die(signal.SIGKILL)", supervision=AGAIN)

    record = bench.supervise()

    assert (record["attempt"], record["code"], record["action"]) == (3, 1, "stop")
    assert record["reason"] == (
        f"rank 0 on {NODE} was killed by SIGKILL; not retried: attempt 3 in a row without a "
        "newer checkpoint"
    )
    events = read_events(bench.run)
    for kind in ("start", "exit"):
        assert [item["attempt"] for item in events if item["event"] == kind] == [1, 2, 3]


def test_logs_and_words_of_each_start_are_kept(bench: Bench) -> None:
    bench.task(
        "print('try', context.attempt)", "say(1, f'no {context.attempt}')", supervision=AGAIN
    )

    bench.supervise()

    for number in (1, 2, 3):
        assert bench.log(number).startswith(f"try {number}\n")
        words = read_json(bench.run.attempt("curate", number) / "rank-exit-00000-00000.json")
        assert words["message"] == f"no {number}"


def test_a_mistake_in_the_configuration_is_never_tried_again(bench: Bench) -> None:
    bench.task(supervision=AGAIN)  # the real stage, whose source is missing

    record = bench.supervise()

    assert (record["attempt"], record["cause"], record["action"]) == (1, "configuration", "stop")


def test_a_signal_ends_the_pause_before_the_next_start(bench: Bench) -> None:
    patient = specs.SupervisionSpec(retry_delay_seconds=600)
    bench.task("say(1, 'no')", supervision=patient)
    process = bench.start()
    wait_until(lambda: exits(bench.run, "curate", 1))

    process.send_signal(signal.SIGTERM)

    assert bench.end(process)[0] == 130
    assert bench.record(1)["action"] == "restart"
    assert (bench.record(2)["cause"], bench.record(2)["action"]) == ("stopped", "stop")


def test_the_file_stop_ends_a_task(bench: Bench) -> None:
    bench.task(*LINGER, "say(130, 'saved')", supervision=AGAIN)
    process = bench.start()
    bench.wait_for("ready")

    bench.run.stop_file.touch()

    assert bench.end(process)[0] == 130
    record = bench.record()
    assert (record["cause"], record["action"]) == ("stopped", "stop")
    assert record["message"] == "attempt 1 of curate was requested to save and exit"


def test_a_cancelled_run_is_recorded_as_cancelled(bench: Bench) -> None:
    bench.task(*LINGER, "say(130, 'saved')", supervision=AGAIN)
    process = bench.start()
    bench.wait_for("ready")

    append_event(bench.run, "cancel", job_ids=[])
    process.send_signal(signal.SIGTERM)

    assert bench.end(process)[0] == 130
    assert bench.record()["cause"] == "cancelled"


def test_ranks_that_hang_are_looked_at_and_ended(bench: Bench) -> None:
    impatient = dataclasses.replace(ONCE, startup_limit_seconds=1)
    bench.task("time.sleep(600)", supervision=impatient)

    record = bench.supervise()

    assert (record["cause"], record["action"]) == ("hang", "stop")
    assert record["message"].startswith("no progress in phase startup for ")


def test_two_starts_at_once_never_get_one_number(bench: Bench) -> None:
    claim = (
        "import sys; from pathlib import Path; from jobs.contract import rundir\n"
        "from jobs.supervision import attempt_records\n"
        "run = rundir.RunDir(Path(sys.argv[1]))\n"
        "print(*(attempt_records.claim(run, 'curate', 0, 1) for _ in range(50)))"
    )
    command = [sys.executable, "-c", claim, str(bench.run.root)]
    both = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    numbers = [int(word) for process in both for word in process.communicate()[0].split()]

    assert sorted(numbers) == list(range(1, 101))


# ---- secrets, and being alone

SECRET = "tr0ub4dor"


def write_secrets(bench: Bench, text: str, mode: int = 0o600) -> str:
    path = bench.run.root.parent / "secrets"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_ranks_get_the_secrets_and_nothing_else_shows_them(bench: Bench) -> None:
    file = write_secrets(bench, f"# token\n\nHUB_TOKEN = {SECRET}\nEMPTY=\n")
    bench.task(
        *LINGER,
        "context.path('seen').write_text(os.environ['HUB_TOKEN'] + os.environ['EMPTY'])",
        "say(2, 'a mistake')",
        secrets_file=file,
    )
    process = bench.start()
    bench.wait_for("ready")
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    commands = [" ".join(item.cmdline()) for item in tree]
    process.send_signal(signal.SIGTERM)
    _, output = bench.end(process)

    assert bench.wait_for("seen") == SECRET
    bench.run.path("seen").unlink()
    files = [path for path in bench.run.root.rglob("*") if path.is_file() and not path.is_symlink()]
    shown = [path.read_text(errors="replace") for path in files]
    assert not any(SECRET in text for text in [output, *commands, *shown])


SEE_PREFLIGHT = """
import os, pathlib, sys
if "jobs.health.preflight" in sys.orig_argv:
    pathlib.Path(os.environ["SEEN"]).write_text(os.environ.get("HUB_TOKEN", "none"))
"""
"""Python runs this as it starts, wherever it lies on PYTHONPATH."""


def test_the_preflight_check_does_not_get_the_secrets(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SEE_PREFLIGHT)
    environ = {"PYTHONPATH": str(tmp_path / "site"), "SEEN": str(tmp_path / "seen")}
    bench.task(FINISH, secrets_file=write_secrets(bench, f"HUB_TOKEN={SECRET}\n"))

    code, output = bench.end(bench.start(environ=environ))

    assert code == 0, output
    assert (tmp_path / "seen").read_text() == "none"


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("A=b\n", 0o640, "{path}: others may read this secret"),
        (f"A=b\n{SECRET}\n", 0o600, "{path}:2: no NAME=value"),
        (f"export A={SECRET}\n", 0o600, "{path}:1: no NAME=value"),
        ("A=\x00\n", 0o600, "{path}:1: no NAME=value"),
    ],
)
def test_a_secrets_file_that_cannot_be_trusted_is_refused(
    bench: Bench, text: str, mode: int, message: str
) -> None:
    file = write_secrets(bench, text, mode)
    bench.task(FINISH, secrets_file=file)

    record = bench.supervise()

    assert (record["code"], record["message"]) == (2, message.format(path=file))
    assert SECRET not in json.dumps(record)


def test_a_missing_secrets_file_is_named(bench: Bench) -> None:
    bench.task(FINISH, secrets_file="/nowhere/secrets")

    record = bench.supervise()

    assert record["code"] == 2
    assert record["message"] == "/nowhere/secrets: No such file or directory"


def test_a_task_that_still_runs_elsewhere_is_not_started_twice(bench: Bench) -> None:
    bench.task(*LINGER, "say(130, 'saved')")
    first = bench.start(attempt=1)
    bench.wait_for("ready")

    record = bench.supervise(attempt=2, lock_seconds=0.5)

    assert record["code"] == 1
    assert record["message"] == "curate task 0 of run is still running in another job"
    first.send_signal(signal.SIGTERM)
    assert bench.end(first)[0] == 130


def test_a_task_that_ends_elsewhere_during_the_wait_for_its_lock_is_not_run_again(
    bench: Bench,
) -> None:
    bench.task(
        "context.path('runs').open('a').write('x')",
        "context.path('ready').write_text('1')",
        "while not context.path('go').exists(): time.sleep(0.01)",
        FINISH,
    )
    first = bench.start(attempt=1)
    bench.wait_for("ready")
    second = bench.start(attempt=2, lock_seconds=600.0)
    wait_until((bench.run.attempt("curate", 2) / "claim-00000").exists)

    bench.run.path("go").touch()

    assert (bench.end(first)[0], bench.end(second)[0]) == (0, 0)
    assert bench.run.path("runs").read_text() == "x"
    assert bench.record(2)["class"] == "finished"


def test_a_run_directory_that_is_gone_is_not_created_again(bench: Bench, tmp_path: Path) -> None:
    bench.task(*LINGER, "context.progress(1, 2, 'steps')", "say(130, 'saved')")
    process = bench.start()
    bench.wait_for("ready")
    (tmp_path / "elsewhere").mkdir()
    bench.run.root.rename(tmp_path / "elsewhere" / bench.run.name)

    process.send_signal(signal.SIGTERM)
    bench.end(process)
    late = bench.start(attempt=2)
    code, output = bench.end(late)

    assert not bench.run.root.exists()
    assert (code, "No such file or directory" in output) == (1, True)


def catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_a_stop_request_ends_the_wait_for_an_earlier_attempt(bench: Bench) -> None:
    bench.task(*LINGER, "say(130, 'saved')")
    first = bench.start(attempt=1)
    bench.wait_for("ready")
    second = bench.start(attempt=2, lock_seconds=600.0)
    wait_until(lambda: catches(second.pid, signal.SIGTERM))

    second.send_signal(signal.SIGTERM)

    assert bench.end(second)[0] == 130
    first.send_signal(signal.SIGTERM)
    assert bench.end(first)[0] == 130


def test_ranks_die_with_a_killed_supervisor_and_the_next_start_records_it(bench: Bench) -> None:
    bench.task(*LINGER, "say(130, 'saved')")
    process = bench.start()
    rank = int(bench.wait_for("ready"))

    process.kill()
    bench.end(process)

    wait_until(lambda: is_gone(rank))
    bench.task(FINISH, supervision=AGAIN)
    assert bench.supervise()["code"] == 0
    kinds = [(event["event"], event["attempt"]) for event in read_events(bench.run)]
    assert kinds == [("start", 1), ("start", 2), ("exit", 1), ("exit", 2)]
    assert bench.record(1)["cause"] == "unknown"


def test_a_supervisor_whose_scheduler_is_gone_stops_its_ranks(bench: Bench) -> None:
    keeper = subprocess.Popen(["sleep", "600"])
    bench.task(*LINGER, "say(130, 'saved')")
    name = local_ranks.process_name(keeper.pid)
    process = bench.start(environ={LOCAL_JOB: f"local:{name}"})
    bench.wait_for("ready")

    keeper.kill()  # and no parent waits for it: it stays as a zombie

    assert bench.end(process)[0] == 130
    keeper.wait()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "{path}: No such file or directory"),
        ('{"format": 1}', f"{{path}}: format 1, this program reads format {FORMAT}"),
        (
            f'{{"format": {FORMAT}, "stage": "mow"}}',
            "{path}: task spec names the unknown stage 'mow'",
        ),
        ('{"format": 3, "stage"', "{path}: not JSON"),
    ],
)
def test_a_spec_that_cannot_be_read_is_a_configuration_error(
    bench: Bench, content: str | None, message: str
) -> None:
    path = bench.run.spec("curate", 0)
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)

    record = bench.supervise()

    assert record["code"] == 2
    assert record["message"].startswith(message.format(path=path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "256k") as disk:
        yield disk


def bench_on(disk: Path) -> Bench:
    """Make a run on a disk."""
    root = disk / "run"
    root.mkdir()
    (root / "code").symlink_to(REPOSITORY)
    return Bench(rundir.RunDir(root))


def test_a_full_disk_hides_neither_the_exit_code_nor_the_sentence(small_disk: Path) -> None:
    bench = bench_on(small_disk)
    bench.task(
        "import contextlib",
        *LINGER[:2],
        "with open(context.path('ballast'), 'wb', buffering=0) as file:",
        "    with contextlib.suppress(OSError):",
        "        while file.write(bytes(4096)): pass",
        "Path(run).parent.joinpath('../full').touch()",
        "while not context.stop: time.sleep(0.01)",
        "say(130, 'could not save')",
        health={"skip": ["disk"]},
    )
    process = bench.start()
    wait_until(lambda: (small_disk.parent / "full").exists())

    process.send_signal(signal.SIGTERM)
    code, output = bench.end(process)

    assert code == 130
    assert "stopped: attempt 1 of curate was stopped by a signal" in output
    recorded = bool(exits(bench.run, "curate", 1))  # the file's last block may have had room
    assert recorded or "the event 'exit' could not be written: No space left on device" in output


def cause_of_first(bench: Bench, disk: Path) -> str:
    """Run a supervisor, free the disk once it has diagnosed an attempt, and resume the run; return
    the root cause that attempt 1 records, once a later one completes.
    """
    process = bench.start()
    assert process.stdout is not None
    lines = iter(process.stdout)
    logged = next((line for line in lines if line.startswith(("storage: ", "failed: "))), "")
    (disk / "ballast").unlink()

    def starts_again() -> bool:
        bench.run.resume_file.touch()  # more than once: the delay may not have begun yet
        return len(bench.run.attempts("curate")) > 1 or process.poll() is not None

    wait_until(starts_again)
    code, rest = bench.end(process)
    last = bench.run.attempts("curate")[-1]  # more than one may have met the full disk
    assert (code, bench.record(last)["cause"]) == (0, "completed"), logged + rest
    return str(bench.record(1)["cause"])


def test_a_rank_that_fails_without_a_record_on_a_full_disk_failed_by_storage(
    small_disk: Path,
) -> None:
    bench = bench_on(small_disk)
    bench.task(
        f"if context.attempt > 1: {FINISH}; sys.exit(0)",
        f"with open({str(small_disk / 'ballast')!r}, 'wb', buffering=0) as file:",
        "    while file.write(bytes(4096)): pass",
        supervision=UNTIL_RESUMED,
        health={"skip": ["disk"]},
    )

    assert cause_of_first(bench, small_disk) == "storage"


def test_a_preflight_check_without_a_report_on_a_full_disk_failed_by_storage(
    small_disk: Path,
) -> None:
    bench = bench_on(small_disk)
    bench.task(FINISH, supervision=UNTIL_RESUMED, health={"skip": ["disk"]})
    fill(small_disk)

    assert cause_of_first(bench, small_disk) == "storage"


@pytest.fixture
def sealed(bench: Bench) -> Iterator[Bench]:
    """Make a run whose event log cannot be appended to (needs root)."""
    system.require_root("mount a file over itself")
    events = str(bench.run.events)
    bench.run.events.touch()
    subprocess.run(["mount", "--bind", events, events], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", events], check=True)
    yield bench
    subprocess.run(["umount", "--lazy", events], check=True)


def test_failures_that_cannot_be_recorded_are_not_retried(sealed: Bench) -> None:
    sealed.task("raise RuntimeError('the loom broke')", supervision=AGAIN)

    code, output = sealed.end(sealed.start())

    assert code == FAILED
    assert "curate is not started again: the attempt could not be recorded" in output
    assert sealed.run.attempts("curate") == [1]


def test_two_tasks_that_start_together_get_ports_of_their_own(bench: Bench) -> None:
    bench.task("context.path('port').write_text(os.environ['MASTER_PORT'])", FINISH)
    with launcher.reserved_port() as one, launcher.reserved_port() as two:
        bench.supervise()
        ports = [one, two, int(bench.wait_for("port"))]

    assert len(set(ports)) == 3


# ---- jobs that are superseded


def given_to(bench: Bench, job: str, attempt: int) -> None:
    """Record that the task was submitted as a job."""
    fields = {"stage": "curate", "indices": [0], "attempt": attempt, "scheduler": "slurm"}
    append_event(bench.run, "submit", **fields, by="supervisor", job_ids=[job])


def test_a_job_that_is_queued_again_after_another_was_given_its_task_starts_nothing(
    bench: Bench,
) -> None:
    bench.task(FINISH)
    given_to(bench, "12", 1)
    given_to(bench, "13", 2)

    code, output = bench.end(bench.start(environ={"MEDITRON_LOCAL_JOB": "12"}))

    assert code == 75
    assert output == "job 13 resumes curate task 0\n"
    assert bench.run.attempts("curate") == []


def test_a_job_that_is_queued_again_after_its_run_was_cancelled_starts_nothing(
    bench: Bench,
) -> None:
    bench.task(FINISH)
    given_to(bench, "12", 1)
    append_event(bench.run, "cancel", job_ids=["12"])

    code, output = bench.end(bench.start(environ={"MEDITRON_LOCAL_JOB": "12"}))

    assert code == 130
    assert output == "curate task 0 is not started: the run was cancelled\n"
    assert bench.run.attempts("curate") == []


def test_a_job_that_starts_before_its_submission_is_on_record_does_its_work(bench: Bench) -> None:
    bench.task(FINISH)
    given_to(bench, "12", 1)
    append_event(bench.run, "cancel", job_ids=["12"])

    code, output = bench.end(bench.start(2, environ={"SLURM_JOB_ID": "", "MEDITRON_LOCAL_JOB": ""}))

    assert code == 0, output


def test_a_gpu_that_fails_ends_the_ranks_and_is_the_cause(bench: Bench, tmp_path: Path) -> None:
    library, readings = build(tmp_path / "nvml"), tmp_path / "readings"
    write_readings(readings, {"count": 1})
    bench.task(*LINGER, gpus_per_node=1, health={"gpus": 1})
    process = bench.start(environ=environment(library, readings))
    bench.wait_for("ready")

    write_readings(readings, {"count": 1, "event.0": "0 79"})
    code, output = bench.end(process)

    record = bench.record()
    assert (code, record["cause"], record["node"]) == (5, "gpu_hardware", NODE), output
    assert record["message"] == (
        f"{NODE} is unhealthy: GPU 0: XID 79: the GPU has fallen off the bus (xid)"
    )
    assert not processes_about(bench.run.root)


def test_a_monitor_that_is_stopped_does_not_outlive_its_attempt(bench: Bench) -> None:
    """The next attempt of the job has its own."""
    task = bench.task("pass", gpus_per_node=1)
    attempt = AttemptRef(bench.run, "curate", 0, 1, 0.0)
    attempt.folder.mkdir(parents=True)

    with node_monitors.running(attempt, task, os.environ):
        wait_until(lambda: list(attempt.folder.glob("monitor-*.json")))
        [monitor] = filter(is_monitor, processes_about(bench.run.root))
        os.kill(monitor, signal.SIGSTOP)

    wait_until(lambda: is_gone(monitor))


def is_monitor(pid: int) -> bool:
    return b"jobs.health.monitor" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_ranks_that_die_with_their_gpu_died_of_it(bench: Bench, tmp_path: Path) -> None:
    """The rank dies at the moment at which the driver reports why."""
    library, readings = build(tmp_path / "nvml"), tmp_path / "readings"
    write_readings(readings, {"count": 1})
    dies = ("wait_for('fails')", "die(signal.SIGABRT)")
    ready = "context.path('ready').write_text('1')"
    bench.task(ready, *dies, gpus_per_node=1, health={"gpus": 1})
    process = bench.start(environ=environment(library, readings))
    bench.wait_for("ready")
    wait_until(lambda: list(bench.run.attempt("curate", 1).glob("monitor-*.json")))

    write_readings(readings, {"count": 1, "event.0": "0 95"})
    bench.run.path("fails").touch()
    _, output = bench.end(process)

    record = bench.record()
    assert (record["cause"], record["node"]) == ("gpu_hardware", NODE), output
    assert "XID 95: an uncontained memory error" in record["message"]
