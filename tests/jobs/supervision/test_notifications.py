"""A supervisor sends notifications, and a receiver that fails or hangs changes nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import notification, specs
from jobs.contract.events import read_events
from jobs.contract.files import write_bytes, write_json
from jobs.contract.notification import EVENTS, NotifySettings, NotifyTarget
from jobs.contract.rundir import RunDir
from jobs.contract.specs import SupervisionSpec

from ...corpus_specs import curate_spec
from ...exits import exits
from ...message_servers import program, sendmail
from ...ranks import FINISH, PATIENCE, kill_processes_about, rank_program, wait_until
from ...task_specs import task_spec
from ..notification.runs import end, happen, tell

REPOSITORY = Path(__file__).parents[3]
SUPERVISE = """
import json, sys
from pathlib import Path
from jobs.contract import rundir
from jobs.supervision import attempt_runner, supervisor
run, limits = rundir.RunDir(Path(sys.argv[1])), attempt_runner.Limits(**json.loads(sys.argv[2]))
sys.exit(supervisor.supervise(run, "curate", 0, 1, limits))
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    root = tmp_path / "run"
    root.mkdir()
    (root / "code").symlink_to(REPOSITORY)
    run = RunDir(root)
    write_json(run.plan, {"stages": {"curate": {"tasks": [0]}}})
    yield run
    kill_processes_about(tmp_path)


def supervise(
    run: RunDir, address: str, *program: str, restarts: int = 0, **limits: float
) -> tuple[int, str]:
    """Supervise a task whose one rank runs some lines, with one receiver of all events; return the
    exit code and the log, which does not end with the supervisor.
    """
    secrets = run.root.parent / "secrets"
    write_bytes(secrets, f"PAGER={address}\nHF_TOKEN=abc\n".encode(), 0o600)
    if not run.notify.exists():
        notification.write(run, NotifySettings((NotifyTarget("PAGER", EVENTS),), str(secrets)))
    task = task_spec(
        "curate",
        curate_spec(run.root / "missing.jsonl"),
        python=rank_program(run.root, *program),
        secrets_file=str(secrets),
        supervision=SupervisionSpec(retry_delay_seconds=0, restarts_in_allocation=restarts),
    )
    write_json(run.spec("curate", 0), specs.to_json(task))
    path = run.root.parent / "log"
    with path.open("w") as log:
        ended = subprocess.run(
            [sys.executable, "-c", SUPERVISE, str(run.root), json.dumps(limits)],
            cwd=REPOSITORY,
            env={**os.environ, "PATH": f"{run.root.parent}/bin:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            timeout=PATIENCE,
        )
    return ended.returncode, path.read_text()


def ends(run: RunDir) -> list[tuple[Any, ...]]:
    records = exits(run, "curate", 1)
    return [(record["cause"], record["action"], record["message"]) for record in records]


def mails_in(folder: Path) -> str:
    """Return receiver and text of the mails that sendmail got."""
    parse = message_from_bytes
    mails = [parse(path.read_bytes(), policy=default) for path in sorted(folder.glob("*.mail"))]
    return "".join(f"{mail['To']}: {mail.get_content()}" for mail in mails)


def test_a_run_is_told_by_mail_from_its_start_to_its_end(run: RunDir, tmp_path: Path) -> None:
    sendmail(tmp_path)

    code, log = supervise(run, "mailto:doctor@example.org", FINISH, notify_seconds=PATIENCE)

    assert code == 0, log
    mails = mails_in(tmp_path)
    assert mails.startswith("doctor@example.org: ")
    assert "curate started on" in mails
    assert "curate finished, and with it the run" in mails
    files = [path for path in run.root.rglob("*") if path.is_file() and "code" not in path.parts]
    assert not [path for path in files if b"doctor" in path.read_bytes()]
    assert "doctor" not in log


def test_a_rank_that_dies_is_told_with_its_next_start(run: RunDir, tmp_path: Path) -> None:
    sendmail(tmp_path)
    lines = ("if context.attempt == 1: die(signal.SIGKILL)", FINISH)

    code, log = supervise(
        run, "mailto:doctor@example.org", *lines, restarts=2, notify_seconds=PATIENCE
    )

    assert code == 0, log
    mails = mails_in(tmp_path)
    assert "curate resumed" in mails
    assert "was killed by SIGKILL" in mails


def test_a_supervisor_waits_for_the_message_about_its_end_that_an_alarm_took_along(
    run: RunDir, tmp_path: Path
) -> None:
    """Slurm would kill what still sends when the supervisor ends."""
    slow = program(tmp_path / "page", "text=$(cat); sleep 0.5", f'echo "$text" >>{tmp_path}/told')

    happen(run, *(end("node_fail", "submit", "curate", attempt=number) for number in range(2, 6)))

    code, log = supervise(run, f"command:{slow}", "die(signal.SIGKILL)", notify_seconds=PATIENCE)

    assert code == 1, log
    told = (tmp_path / "told").read_text()
    assert "attempts ended within 30 minutes" in told
    assert "curate failed" in told


def test_ranks_get_secrets_but_no_address(run: RunDir) -> None:
    lines = ("context.path('seen').write_text(repr(dict(os.environ)))", FINISH)

    code, log = supervise(run, "command:true", *lines, notify_seconds=PATIENCE)

    assert code == 0, log
    seen = (run.root / "seen").read_text()
    assert "'HF_TOKEN': 'abc'" in seen
    assert "PAGER" not in seen


def test_receivers_in_a_damaged_file_are_reported_and_change_nothing_of_the_run(
    run: RunDir,
) -> None:
    run.notify.write_text("{")

    code, log = supervise(run, "command:true", FINISH, notify_seconds=PATIENCE)

    assert code == 0, log
    assert log.count(f"no notification is sent: {run.notify}: not JSON") == 1
    assert f"the ranks get all lines of the secrets file: {run.notify}: not JSON" in log


@pytest.mark.parametrize(
    "address",
    ["command:false", "command:/no/such/program", "mailto:", "pigeon://post", "command:sleep 1000"],
)
def test_a_receiver_that_cannot_be_told_changes_nothing_of_the_run(
    run: RunDir, tmp_path: Path, address: str
) -> None:
    hang = program(tmp_path / "hang", "exec sleep 1000")
    address = address.replace("command:sleep 1000", f"command:{hang}")

    code, log = supervise(run, address, FINISH, notify_seconds=0.0)

    assert code == 0, log
    assert ends(run) == [("completed", "finish", "curate reached its target")]


def test_a_failed_delivery_stands_in_the_log_of_the_job(run: RunDir) -> None:
    code, log = supervise(run, "command:false", FINISH, notify_seconds=PATIENCE)

    assert code == 0, log
    sentence = "the notification to PAGER was not delivered: its program ended with 1"
    assert log.splitlines().count(sentence) == 1
    wait_until(lambda: read_events(run, ["notification"]))
    assert len(read_events(run, ["notification"])) == 1


ALARM = """
import sys, time
from pathlib import Path
from jobs.contract.outcomes import Alarm
from jobs.contract.rundir import RunDir
from jobs.notification.sender import Sender
from jobs.supervision.alarms.alarm_log import AlarmLog
from jobs.supervision.attempt_records import AttemptRef
attempt = AttemptRef(RunDir(Path(sys.argv[1])), "curate", 0, 1, time.time())
sender = Sender(attempt.run)
AlarmLog(attempt, sender).add(Alarm("straggler", "GPU 3 takes 1.4 times as long", node="n1"))
"""


def test_an_alarm_is_sent_while_the_ranks_run(run: RunDir, tmp_path: Path) -> None:
    page = program(
        tmp_path / "page", f"cat >{tmp_path}/.part && mv {tmp_path}/.part {tmp_path}/told"
    )
    tell(run, {"PAGER": f"command:{page}"}, "alarm")
    run.events.touch()

    subprocess.run([sys.executable, "-c", ALARM, str(run.root)], cwd=REPOSITORY, check=True)

    wait_until((tmp_path / "told").exists)
    assert "curate: n1: GPU 3 takes 1.4 times as long" in (tmp_path / "told").read_text()
