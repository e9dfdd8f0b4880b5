"""Delivery of messages by the real processes, to servers and programs of this machine."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jobs.contract.notification import kind_of
from jobs.notification import delivery
from jobs.notification.message import Message

from ...message_servers import (
    PATIENT,
    certificate,
    http_server,
    need,
    program,
    sendmail,
    silent_server,
    smtp_server,
)
from ...ranks import PATIENCE, is_gone, wait_until

MESSAGE = Message("failed", "med-tiny-1", "meditron: med-tiny-1: failed", "pretrain failed\n*why*")


TOKEN = "3ccdd113474722377935511fc85d3dd4"
MAIL = f"from=med@example.org&to=doctor@example.org&mode=insecure&smtp=127.0.0.1&{PATIENT}"
SLACK = "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
TEAMS = "/workflows/643e69f83c8944/triggers/manual/paths/invoke"
TEAMS_QUERY = f"api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={TOKEN}"


def deliver(address: str) -> str:
    """Deliver the message to one address; return why it was not delivered."""
    return deliver_all({"TEAM": address})["TEAM"]


def deliver_all(addresses: dict[str, str]) -> dict[str, str]:
    return delivery.deliver(addresses, dict.fromkeys(addresses, MESSAGE), PATIENCE)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("mailto:a@b.org", "sendmail"),
        ("mailto:a@b.org,c@d.org", "sendmail"),
        ("mailto:nobody", ""),
        ("mailto://user:secret@b.org", "service"),
        ("command:/usr/bin/page me", "command"),
        ("command: ", ""),
        ("https://hooks.slack.com/services/T/B/X", "service"),
        ("ntfy://", ""),
        ("a@b.org", ""),
        ("/usr/bin/page", ""),
        ("", ""),
    ],
)
def test_the_form_of_an_address_decides_how_it_is_reached(address: str, kind: str) -> None:
    assert kind_of(address) == kind


def test_sendmail_gets_the_receiver_in_the_header_and_not_as_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{sendmail(tmp_path).parent}:{os.environ['PATH']}")

    error = deliver("mailto:doctor@example.org")

    mail = (tmp_path / "0.mail").read_text()
    assert error == ""
    assert (tmp_path / "0.arguments").read_text() == "-t -i\n"
    assert "To: doctor@example.org\nSubject: meditron: med-tiny-1: failed\n" in mail
    assert mail.endswith("\n\npretrain failed\n*why*\n")


def test_a_sendmail_that_fails_gives_its_last_line_without_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path / "sendmail", "cat >/dev/null; echo no route to doctor@EXAMPLE.org >&2; exit 75"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert deliver("mailto:doctor@example.org") == "its program ended with 75: no route to …"


def test_a_command_gets_the_message_on_stdin_and_its_event_in_the_environment(
    tmp_path: Path,
) -> None:
    page = program(
        tmp_path / "page me",
        f'{{ echo "$1|$MEDITRON_EVENT|$MEDITRON_RUN|$MEDITRON_TITLE"; cat; }} >{tmp_path}/told',
    )

    assert deliver(f"command:'{page}' 'on call'") == ""
    assert (tmp_path / "told").read_text() == (
        "on call|failed|med-tiny-1|meditron: med-tiny-1: failed\npretrain failed\n*why*\n"
    )


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("command:/no/such/program", "its program cannot be started: No such file or directory"),
        ("command:'", "its command cannot be split into words"),
        ("command:sh -c 'exit 3'", "its program ended with 3"),
        ("doctor@example.org", f"its address has none of the forms {delivery.FORMS}"),
    ],
)
def test_an_address_that_cannot_be_reached_is_one_sentence(address: str, error: str) -> None:
    assert deliver(address) == error


def test_mail_servers_and_services_get_the_message_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("apprise", "aiosmtpd")
    pair = certificate(tmp_path, "hooks.slack.com", "prod-1.westeurope.logic.azure.com")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pair))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_server(pair) as outside, http_server() as inside, smtp_server() as (port, mails):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{outside.port}")
        addresses = {
            "MAIL": f"mailto://example.org:{port}?{MAIL}",
            "SLACK": f"https://hooks.slack.com{SLACK}?{PATIENT}",
            "TEAMS": f"https://prod-1.westeurope.logic.azure.com:443{TEAMS}?{TEAMS_QUERY}&{PATIENT}",
            "MATTERMOST": f"mmost://127.0.0.1:{inside.port}/{TOKEN}?{PATIENT}",
            "NTFY": f"ntfy://127.0.0.1:{inside.port}/med-alerts?{PATIENT}",
        }
        errors = deliver_all(addresses)

    assert errors == dict.fromkeys(addresses, "")
    [(receivers, mail)] = mails
    assert receivers == ["doctor@example.org"]
    assert mail["Subject"] == "meditron: med-tiny-1: failed"
    assert "pretrain failed" in str(mail)
    hosts = ["hooks.slack.com:443", "prod-1.westeurope.logic.azure.com:443"]
    assert sorted(outside.hosts) == hosts
    assert {path.partition("?")[0] for path in outside.paths} == {SLACK, TEAMS}
    assert sorted(inside.paths) == ["/", f"/hooks/{TOKEN}"]
    for body in (*outside.bodies, *inside.bodies):
        assert "med-tiny-1: failed" in body
        assert "pretrain failed" in body


def test_services_that_refuse_or_are_not_there_give_a_reason_without_the_address() -> None:
    need("apprise", "aiosmtpd")
    with http_server() as received, smtp_server(refuses=True) as (port, mails):
        received.status = 403
        addresses = {
            "MAIL": f"mailto://example.org:{port}?{MAIL}",
            "REFUSED": f"mmost://127.0.0.1:{received.port}/{TOKEN}?{PATIENT}",
            "ABSENT": f"mmost://127.0.0.1:9/{TOKEN}",
            "UNKNOWN": f"pigeon://post/{TOKEN}",
        }
        errors = deliver_all(addresses)

    assert not mails
    assert "403" in errors["REFUSED"]
    assert errors["UNKNOWN"] == "apprise knows no service of this form"
    for error in errors.values():
        assert error
        assert TOKEN not in error
        assert "doctor" not in error


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_no_delivery(status: int) -> None:
    """A browser would be shown a page to log in, with the status 200."""
    need("apprise")
    with http_server() as received:
        received.status = status
        error = deliver(f"mmost://127.0.0.1:{received.port}/{TOKEN}?{PATIENT}")

    assert str(status) in error
    assert received.paths == [f"/hooks/{TOKEN}"]


def test_a_delivery_that_hangs_is_killed_with_its_programs(tmp_path: Path) -> None:
    hang = program(tmp_path / "hang", f"echo $$ >{tmp_path}/pid", "exec sleep 1000")
    child = delivery.start(f"command:{hang}", MESSAGE, PATIENCE)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())

    assert delivery.result(child, deadline=0.0) == "no answer in time"

    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: is_gone(pid))


def test_a_delivery_that_nobody_waits_for_any_more_ends_with_its_programs(tmp_path: Path) -> None:
    hang = program(tmp_path / "hang", f"echo $$ >{tmp_path}/pid", "exec sleep 1000")

    child = delivery.start(f"command:{hang}", MESSAGE, 1.0)

    assert isinstance(child, subprocess.Popen)
    child.communicate(timeout=PATIENCE)
    if (tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text().strip()):
        wait_until(lambda: is_gone(int(pid)))  # else it ended before


def test_receivers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    other = program(tmp_path / "other", f"while [ ! -e {tmp_path}/told ]; do sleep 0.05; done")
    page = program(tmp_path / "page", f"touch {tmp_path}/told")

    errors = deliver_all({"WAITS": f"command:{other}", "TEAM": f"command:{page}"})

    assert errors == {"WAITS": "", "TEAM": ""}


def test_no_list_of_processes_has_the_address(tmp_path: Path) -> None:
    need("apprise")
    ready = program(
        tmp_path / "page",
        f"touch {tmp_path}/ready; while [ ! -e {tmp_path}/seen ]; do sleep 0.05; done",
    )
    with silent_server() as port, ThreadPoolExecutor() as pool:
        addresses = {
            "PAGE": f"command:{ready}",
            "TEAM": f"mmost://127.0.0.1:{port}/{TOKEN}?rto=1",
        }
        errors = pool.submit(delivery.deliver, addresses, dict.fromkeys(addresses, MESSAGE))
        wait_until(lambda: (tmp_path / "ready").exists())
        children = psutil.Process().children(recursive=True)
        seen = ""
        for child in children:
            with suppress(psutil.Error):  # it has ended
                seen += f"{child.cmdline()} {child.environ()}"
        (tmp_path / "seen").touch()

    assert "jobs.notification.delivery" in seen
    assert TOKEN not in seen
    assert errors.result()["PAGE"] == ""
    assert errors.result()["TEAM"]
