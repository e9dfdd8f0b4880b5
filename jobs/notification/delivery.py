"""Deliver one message to one address: ``python -m jobs.notification.delivery``, with both as JSON
on stdin, so that no list of processes has the address.

A process of its own, since a name server, a mail server or a command may never answer: ``deliver``
kills it after a time limit. It prints why nothing was delivered, never a part of the address.
Standard library; apprise for the URL of a service.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jobs.contract.notification import COMMAND, FORMS, MAIL, kind_of
from jobs.notification.message import Message

SECONDS = 20.0
"""To deliver a message: apprise waits 4 s for a connection and 4 s for an answer, by default."""
LAST_SECONDS = 1.0
"""For the output of a process that has ended, or was killed."""
SENDMAIL_PATH = "/usr/sbin:/usr/lib:/usr/local/sbin"
"""Where sendmail lies beside PATH."""
INSTALL = "apprise is not installed for the Python of this job: `pip install 'meditron[notify]'`"
HIDDEN_LETTERS = 4
"""Parts of an address that are shorter may stand in an error."""


class Refused(Exception):
    """The message was not delivered, for this reason."""

    def __init__(self, reason: str, said: str = "") -> None:
        """Keep the reason.

        Args:
            reason: in our words.
            said: by another program, which may name the address.
        """
        super().__init__(reason)
        self.said = said


def deliver(
    addresses: Mapping[str, str], messages: Mapping[str, Message], seconds: float = SECONDS
) -> dict[str, str]:
    """Deliver a message to each receiver, all at once; return by name why one was not delivered,
    an empty text where it was.

    Args:
        addresses: by name of the receiver.
        messages: the same.
        seconds: until a delivery that does not end is killed.
    """
    deadline = time.monotonic() + seconds
    children = {
        name: start(addresses[name], message, seconds) for name, message in messages.items()
    }
    return {name: result(child, deadline) for name, child in children.items()}


def child_environment() -> dict[str, str]:
    """Return the environment of a process of this package, with this very code."""
    code = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


def start(address: str, message: Message, seconds: float) -> subprocess.Popen[str] | str:
    """Start the process that delivers a message; return why it cannot be started.

    Args:
        address: of the receiver.
        message: to deliver.
        seconds: after which it ends by itself, some time later, if nobody waits for it any more.
    """
    try:
        with open(os.memfd_create("message"), "w+") as given:  # no file, which others might read
            json.dump({"address": address, "message": asdict(message), "seconds": seconds}, given)
            given.seek(0)
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.notification.delivery"],
                env=child_environment(),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
    except OSError as error:
        return f"the process to send it could not be started: {error.strerror}"


def result(child: subprocess.Popen[str] | str, deadline: float) -> str:
    """Return why a process has not delivered its message, empty where it has; kill it once the
    time is over.
    """
    if isinstance(child, str):
        return child
    try:
        left = deadline - time.monotonic() if child.poll() is None else LAST_SECONDS
        out, _ = child.communicate(timeout=max(0.0, left))
    except subprocess.TimeoutExpired:
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # it may be stuck in the kernel
            child.communicate(timeout=LAST_SECONDS)
        return "no answer in time"
    if child.returncode == 0:
        return ""
    return out.strip() or f"the process that sends it ended with {child.returncode}"


# ---- in the process of its own


def main() -> int:
    """Deliver the message on stdin; print the reason and return 1 where that fails."""
    given = json.load(sys.stdin)
    address, message = given["address"], Message(**given["message"])
    signal.signal(signal.SIGALRM, lambda number, frame: os.killpg(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, given["seconds"] + LAST_SECONDS)
    try:
        send(address, message)
    except Refused as refused:
        print(": ".join(filter(None, (str(refused), without(address, refused.said)))))
        return 1
    except Exception as error:  # a bug of a library must not print what it was called with
        print(f"{type(error).__name__} in the library that sends it")
        return 1
    return 0


def send(address: str, message: Message) -> None:
    """Send a message to an address of any form.

    Raises:
        Refused: it was not delivered.
    """
    kind = kind_of(address)
    if kind == "sendmail":
        send_mail(address.removeprefix(MAIL), message)
    elif kind == "command":
        run_command(address.removeprefix(COMMAND), message)
    elif kind == "service":
        notify_service(address, message)
    else:
        raise Refused(f"its address has none of the forms {FORMS}")


def send_mail(to: str, message: Message) -> None:
    """Hand a message to the program ``sendmail``, which reads the receiver from its header.

    Raises:
        Refused: there is no such program, or it failed.
    """
    program = shutil.which("sendmail", path=f"{os.environ.get('PATH', '')}:{SENDMAIL_PATH}")
    if program is None:
        raise Refused("this node has no program sendmail; use mailtos://… for an SMTP server")
    mail = EmailMessage()
    try:
        mail["To"] = to
    except ValueError as error:
        raise Refused("its address is not that of a mailbox") from error
    mail["Subject"] = message.title
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.body)
    run([program, "-t", "-i"], mail.as_string(), {})


def run_command(command: str, message: Message) -> None:
    """Run a command with the message on stdin, and its event, run and title in the environment.

    Raises:
        Refused: it cannot be started, or failed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Refused("its command cannot be split into words") from error
    names = {"EVENT": message.event, "RUN": message.run, "TITLE": message.title}
    run(words, message.body + "\n", {f"MEDITRON_{name}": text for name, text in names.items()})


def run(words: list[str], text: str, variables: Mapping[str, str]) -> None:
    """Run a program with a text on stdin.

    Raises:
        Refused: it cannot be started, or failed.
    """
    try:
        ended = subprocess.run(
            words,
            input=text,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise Refused(f"its program cannot be started: {error.strerror}") from error
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().rpartition("\n")[2]
        raise Refused(f"its program ended with {ended.returncode}", said)


def notify_service(url: str, message: Message) -> None:
    """Send a message by apprise.

    Raises:
        Refused: apprise is missing, does not know the service, or was not answered with success.
    """
    service, reasons = service_of(url)
    if service is None:
        raise Refused("apprise knows no service of this form")
    if not service.notify(
        title=message.title,
        body=message.body,
        notify_type=TYPES.get(message.event, "info"),
        body_format="text",
    ):
        raise Refused("the service was not reached, or refused it", reasons.first)


def service_of(url: str) -> tuple[Any, Reasons]:
    """Return apprise's service of a URL, None where it knows none of this form, and its warnings.

    Raises:
        Refused: apprise is missing.
    """
    try:
        import apprise
    except ImportError as error:
        raise Refused(INSTALL) from error
    reasons = Reasons()
    asset = apprise.AppriseAsset(
        app_id="meditron",
        app_desc="meditron",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        async_mode=False,
        http_redirects=False,  # a page to log in answers 200, and the message is lost
    )
    logger = logging.getLogger("apprise")
    logger.addHandler(reasons)
    logger.propagate = False
    return apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True), reasons


TYPES = {"failed": "failure", "finished": "success", "alarm": "warning", "node_excluded": "warning"}
"""Apprise's types of messages, which services show by colours."""


class Reasons(logging.Handler):
    """Keeps the first warning of a library; its messages of a lower level may have addresses."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()


def without(address: str, text: str) -> str:
    """Return a text on one line in which no part of an address stands."""
    kind, plain = address.partition(":")[0], unquote(address)
    whole = f"{address} {plain}"
    parts = re.findall(r"[\w.-]+", whole) + re.findall(r"[\w.@-]+", whole)
    for part in sorted({address, plain, *parts} - {kind}, key=len, reverse=True):
        if len(part) >= HIDDEN_LETTERS:
            text = re.sub(re.escape(part), "…", text, flags=re.IGNORECASE)  # a host is lower case
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
