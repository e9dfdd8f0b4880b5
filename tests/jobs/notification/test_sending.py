"""The process that sends a run's notifications, and what of it a run ever notices: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from jobs.contract.events import ExitEvent, read_events
from jobs.contract.files import read_json
from jobs.contract.locks import locked
from jobs.contract.rundir import RunDir
from jobs.notification import __main__ as sending
from jobs.notification.outbox import OLDEST_SECONDS
from jobs.notification.sender import Sender

from ...disks import fill, mounted
from ...message_servers import program, sendmail
from ...ranks import PATIENCE, wait_until
from .runs import end, happen, make_run, start, tell


def failed(**place: int) -> ExitEvent:
    return end("exception", "stop", message="no text", **place)


def send(run: RunDir) -> None:
    """Send in this process, which would ignore SIGTERM ever after by ``main``."""
    sending.send_when_free(run, PATIENCE)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, curate=100, pretrain=1)


def start_sender(run: RunDir) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "jobs.notification", str(run.root)])


def page(folder: Path, *lines: str) -> str:
    """Return the address of a command that keeps each message in a file of its own."""
    keep = f'cat >{folder}/.$$ && mv {folder}/.$$ "{folder}/$$-$(date +%N).page"'
    return f"command:{program(folder / 'page', *lines, keep)}"


def pages(folder: Path) -> list[str]:
    paths = sorted(folder.glob("*.page"), key=lambda path: path.stat().st_mtime_ns)
    return [path.read_text() for path in paths]


def notes(run: RunDir) -> list[tuple[str, str]]:
    events = read_events(run, ["notification"])
    return [(event["to"], event["error"]) for event in events]


def test_what_happened_is_told_once_with_the_command_that_shows_more(
    run: RunDir, tmp_path: Path
) -> None:
    tell(run, {"PAGER": page(tmp_path)})
    happen(run, start(), failed())

    for _ in range(2):
        send(run)

    [text] = pages(tmp_path)
    first, second, empty, command = text.splitlines()
    assert first.endswith(" pretrain started")
    assert second.endswith(" pretrain failed: no text")
    assert (empty, command) == ("", run.command("status"))


def test_letters_that_a_receiver_cannot_take_do_not_hold_up_its_news(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(run, {"MAIL": "mailto:doctor@example.org"})
    monkeypatch.setenv("PATH", f"{sendmail(tmp_path).parent}:{os.environ['PATH']}")
    happen(run, end("exception", "stop", message="cut \ud800, \0, \x1b[31m and\u2028so on"))

    send(run)

    assert notes(run) == []
    mail = message_from_bytes((tmp_path / "0.mail").read_bytes(), policy=policy.default)
    assert "pretrain failed: cut , , [31m and so on\n" in mail.get_body().get_content()


def test_news_of_days_ago_are_not_even_looked_into(run: RunDir) -> None:
    old = replace(start(), time=time.time() - 2 * OLDEST_SECONDS)
    happen(run, old, start(attempt=2))

    values, offset = sending.new_events(run, 0, time.time() - OLDEST_SECONDS)

    assert [value["attempt"] for value in values] == [2]
    assert offset == run.events.stat().st_size


def test_each_receiver_is_told_of_its_events(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    tell(run, {"PAGER": page(tmp_path / "all")}, "failed")
    happen(run, start())

    send(run)

    assert pages(tmp_path / "all") == []


def test_many_senders_at_once_tell_everything_once(run: RunDir, tmp_path: Path) -> None:
    tell(run, {"PAGER": page(tmp_path)}, "failed")
    senders = []
    for index in range(6):
        happen(run, end("exception", "stop", "curate", index, message="no text"))
        senders.append(Sender(run))
        senders[-1].send()
    for sender in senders:
        sender.wait(PATIENCE)

    counts = [item["count"] for item in state(run)["items"].values()]
    told = pages(tmp_path)
    assert len(told) == 1
    repeats = told[0].partition(" times")[0].rpartition("(")[2]
    assert int(repeats if repeats.isdigit() else 1) + sum(counts) == 6


def test_the_same_failure_soon_after_a_resume_is_told_when_nothing_follows(
    run: RunDir, tmp_path: Path
) -> None:
    tell(run, {"PAGER": page(tmp_path)}, "failed")
    happen(run, start(), end("data", "stop", message="a shard is damaged"))
    send(run)
    happen(run, start(attempt=2))
    send(run)

    happen(run, end("data", "stop", attempt=2, message="another shard is damaged"))
    send(run)

    assert len(pages(tmp_path)) == 2
    assert "another shard is damaged" in pages(tmp_path)[1]


def test_the_last_of_many_failures_sends_those_that_waited(run: RunDir, tmp_path: Path) -> None:
    tell(run, {"PAGER": page(tmp_path)}, "failed")
    happen(run, *(start("curate", index) for index in range(100)))
    for index in range(100):
        happen(run, end("exception", "stop", "curate", index, message="no text"))
        if index in (0, 40, 98, 99):
            send(run)

    assert ["times" in text for text in pages(tmp_path)] == [False, True]
    assert "(99 times)" in pages(tmp_path)[1]


def state(run: RunDir, name: str = "PAGER") -> dict[str, object]:
    receiver: dict[str, object] = read_json(run.notify_state)["receivers"][name]
    return receiver


def test_a_failed_delivery_is_logged_once_and_told_with_the_next(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(run, {"PAGER": page(tmp_path, f"[ -e {tmp_path}/up ] || exit 7")})
    for attempt in (1, 2):
        happen(run, end("exception", "stop", attempt=attempt, message="no text"))
        send(run)
    assert notes(run) == [("PAGER", "its program ended with 7")]
    assert capsys.readouterr().err.count("was not delivered") == 1
    (tmp_path / "up").touch()

    happen(run, end("completed", "finish"))
    send(run)

    [text] = pages(tmp_path)
    assert "failed: no text (2 times)" in text
    assert "pretrain finished" in text


@pytest.mark.parametrize("damage", ["", "{", '{"format": 3}', '{"format": 3, "offset": {}}'])
def test_a_damaged_state_only_repeats_what_is_new(run: RunDir, tmp_path: Path, damage: str) -> None:
    tell(run, {"PAGER": page(tmp_path)})
    run.notify_state.write_text(damage)
    happen(run, failed())

    send(run)

    assert len(pages(tmp_path)) == 1


def test_without_a_readable_address_the_reason_is_logged_once(run: RunDir, tmp_path: Path) -> None:
    tell(run, {"PAGER": page(tmp_path)})
    secrets = tmp_path / "secrets"
    secrets.chmod(0o644)
    for attempt in (1, 2):
        happen(run, end("exception", "stop", attempt=attempt))
        send(run)
    assert notes(run) == [("", f"no notification is sent: {secrets}: others may read this secret")]
    secrets.chmod(0o600)
    secrets.write_text("OTHER=mailto:a@b.org\n")

    send(run)

    assert notes(run)[1:] == [("PAGER", f"{secrets} has no line PAGER=…")]


def test_a_full_disk_of_the_run_is_told_once(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "256k") as disk:
        run = make_run(disk, pretrain=1)
        tell(run, {"PAGER": page(tmp_path)})
        happen(run, failed())
        run.notify_lock.touch()
        os.utime(run.notify, (0, 0))
        fill(disk)

        for _ in range(3):
            assert start_sender(run).wait(PATIENCE) == 0

    [text] = pages(tmp_path)
    assert "failed: no text" in text


def test_a_sender_that_is_killed_while_it_sends_leaves_it_to_the_next(
    run: RunDir, tmp_path: Path
) -> None:
    hold = f"[ -e {tmp_path}/up ] || {{ touch {tmp_path}/there; exec sleep 60; }}"
    tell(run, {"PAGER": page(tmp_path, hold)})
    happen(run, failed())
    sender = start_sender(run)
    wait_until(lambda: (tmp_path / "there").exists())
    sender.terminate()  # which Slurm does some time before it kills
    sender.kill()
    sender.wait()
    (tmp_path / "up").touch()

    send(run)

    assert len(pages(tmp_path)) == 1
    assert len(read_json(run.notify_state)["receivers"]["PAGER"]["tries"]) == 2


def test_a_stop_of_the_job_lets_a_message_get_through(run: RunDir, tmp_path: Path) -> None:
    wait = f"touch {tmp_path}/there; while [ ! -e {tmp_path}/up ]; do sleep 0.05; done"
    tell(run, {"PAGER": page(tmp_path, wait)})
    happen(run, failed())
    sender = start_sender(run)
    wait_until(lambda: (tmp_path / "there").exists())

    sender.terminate()
    (tmp_path / "up").touch()

    assert sender.wait(PATIENCE) == 0
    assert len(pages(tmp_path)) == 1


def test_while_another_sends_a_sender_waits_until_that_has_told_its_news(
    run: RunDir, tmp_path: Path
) -> None:
    tell(run, {"PAGER": page(tmp_path)})
    happen(run, failed())
    with locked(run.notify_lock):
        sender = start_sender(run)
        sending.send_new(run)
        assert sender.wait(PATIENCE) == 0

    assert len(pages(tmp_path)) == 1


def test_a_run_without_receivers_starts_no_process(run: RunDir) -> None:
    happen(run, failed())
    sender = Sender(run)

    sender.send()
    sender.wait()

    assert not run.notify_lock.exists()


def test_a_run_that_is_removed_meanwhile_does_not_reappear(run: RunDir, tmp_path: Path) -> None:
    tell(run, {"PAGER": page(tmp_path, f"rm -r {run.root}")})
    happen(run, failed())

    assert start_sender(run).wait(PATIENCE) == 0

    assert len(pages(tmp_path)) == 1
    assert not run.root.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"format": 2, "targets": []}', "format 2, this program reads format 3"),
        ('{"format": 3}', "the file is damaged"),
        ('{"format": 3, "targets": [1], "secrets_file": ""}', "the file is damaged"),
        (None, "Is a directory"),
    ],
)
def test_damaged_settings_are_reported_once_and_nothing_is_lost(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str | None, reason: str
) -> None:
    tell(run, {"PAGER": page(tmp_path, f"[ -e {tmp_path}/up ] || exit 7")})
    happen(run, start())
    send(run)
    whole = run.notify.read_text()
    if damage is None:
        run.notify.unlink()
        run.notify.mkdir()
    else:
        run.notify.write_text(damage)
    happen(run, failed())

    for _ in range(2):
        send(run)

    sentence = f"no notification is sent: {run.notify}: {reason}"
    assert notes(run)[1:] == [("", sentence)]
    assert capsys.readouterr().err.count(sentence) == 1
    if damage is None:
        run.notify.rmdir()
    (tmp_path / "up").touch()
    run.notify.write_text(whole)
    send(run)
    [text] = pages(tmp_path)
    assert "pretrain started" in text
    assert "pretrain failed" in text


def test_a_removed_run_does_not_reappear(run: RunDir, tmp_path: Path) -> None:
    run.events.unlink()
    for path in list(run.root.iterdir()):
        path.unlink()
    run.root.rmdir()

    assert start_sender(run).wait(PATIENCE) == 0

    assert not run.root.exists()
