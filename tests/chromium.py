"""Headless Chromium through its debugging pipe (chromedevtools.github.io/devtools-protocol)."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

INSTALL = Path(__file__).with_name("slurm") / "install.sh"
ANSWER_SECONDS = 300
"""Within which Chromium answers, on a loaded machine too."""
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
START = """
import os, sys
for given, expected in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(given), expected)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""It reads orders from descriptor 3, and answers on 4."""
NOISY = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
"""Events of errors and of everything that is written to the console."""


def install() -> str:
    """Install Chromium from Debian; return why that failed, or nothing."""
    if shutil.which("chromium"):
        return ""
    done = subprocess.run(
        ["sh", str(INSTALL), "chromium", "fonts-dejavu-core"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"Chromium is missing: {done.stderr.strip()[-2000:]}" if done.returncode else ""


class Chromium:
    """A browser with one page."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (orders, self._to), (self._from, answers) = os.pipe(), os.pipe()
        inherited = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (orders, answers)]
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", START, *map(str, inherited)),
                *("chromium", f"--user-data-dir={self._home.name}", *OPTIONS),
            ],
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (orders, answers, *inherited):
            os.close(end)
        self._numbers, self._read, self._session = itertools.count(1), b"", ""
        self.events: list[dict[str, Any]] = []
        """Events since the page was opened."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._home.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send an order and return its result."""
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": parameters}
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps({**order, **session}).encode() + b"\0")
        while (message := self._receive()).get("id") != number:
            self.events.append(message)
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def open(self, page: Path, width: int, mode: str = "light") -> None:
        """Open a file in a window of a width, in light or dark mode, and wait for its charts."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": mode}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        loader = self.call("Page.navigate", url=page.resolve().as_uri())["loaderId"]

        def is_loaded(event: dict[str, Any]) -> bool:
            """Return whether this page has loaded: the event of the one before may come late."""
            found = event["params"] if event["method"] == "Page.lifecycleEvent" else {}
            return (found.get("loaderId"), found.get("name")) == (loader, "load")

        while not any(map(is_loaded, self.events)):
            self.events.append(self._receive())
        self.run("drawn")

    def run(self, script: str) -> Any:
        """Return the value of an expression, or of its promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13}
        pressed = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from a point of the window to another."""
        for kind, (x, y) in (("mousePressed", begin), ("mouseMoved", end), ("mouseReleased", end)):
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, file: Path) -> None:
        """Write the whole page as PNG."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(image["data"]))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return errors and what was written to the console since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in NOISY]

    @property
    def requests(self) -> list[str]:
        """Return the addresses that were requested since then, the page's own too."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], ANSWER_SECONDS)
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError("Chromium does not answer")
            self._read += data
        line, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message
