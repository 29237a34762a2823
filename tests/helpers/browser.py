"""Headless Chromium by its driver, over plain HTTP on this machine: no package of ours, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-device-scale-factor=1",
)  # fmt: skip
_WAIT = 60.0


class Browser:
    """A window of Chromium.

    Args:
        address: of the driver's session.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def open(self, path: Path) -> None:
        """Open a file."""
        self._ask("url", {"url": path.resolve().as_uri()})

    def run(self, script: str) -> object:
        """The value that a script returns."""
        return self._ask("execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Keys one after the other."""
        moves = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("actions", {"actions": [{"type": "key", "id": "keys", "actions": moves}]})

    def point_at(self, selector: str) -> None:
        """Move the pointer over an element."""
        found = self._ask("element", {"using": "css selector", "value": selector})
        move = {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": found}
        self._ask("actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def command(self, name: str, **settings: object) -> object:
        """A command of the developer tools."""
        return self._ask("goog/cdp/execute", {"cmd": name, "params": settings})

    def errors(self) -> list[str]:
        """What the console has said since it was last asked."""
        entries = self._ask("se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def resize(self, width: int, height: int) -> None:
        """A view of so many pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """Ask for light or dark pages."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> None:
        """Write what can be seen as a PNG file."""
        path.write_bytes(base64.b64decode(str(self._ask("screenshot"))))

    def _ask(self, what: str, content: object = None) -> object:
        return _asked(f"{self._address}/{what}", content)


def printed(page: Path, target: Path) -> None:
    """Print a page as a PDF file; the driver's own command has no patience on a busy machine."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as home:
        words = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={home}", f"--print-to-pdf={target}"]
        subprocess.run(  # noqa: S603 - the browser of this machine
            [*words, "--no-pdf-header-footer", page.resolve().as_uri()],
            check=True, capture_output=True, timeout=3 * _WAIT,
        )  # fmt: skip


@contextmanager
def browser() -> Iterator[Browser]:
    """A window of a Chromium of its own, closed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="chromium-") as home:
        environment = {**os.environ, "HOME": home}
        driver = subprocess.Popen(  # noqa: S603 - the driver of this machine
            [str(DRIVER), f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            yield from _window(f"http://127.0.0.1:{port}", home)
        finally:
            driver.terminate()
            driver.wait(_WAIT)


def _window(address: str, home: str) -> Iterator[Browser]:
    _wait_for(address)
    options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={home}/profile"]}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    session = _asked(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
    own = f"{address}/session/{session['sessionId']}"
    try:
        yield Browser(own)
    finally:
        _asked(own, method="DELETE")


def _wait_for(address: str) -> None:
    end = time.monotonic() + _WAIT
    while True:
        try:
            if _asked(f"{address}/status")["ready"]:
                return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def _asked(address: str, content: object = None, *, method: str | None = None) -> object:
    body = None if content is None else json.dumps(content).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, body, head, method=method)  # noqa: S310 - of our own driver
    try:
        with urllib.request.urlopen(request, timeout=_WAIT) as answer:  # noqa: S310 - of our own driver
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(error.read().decode()) from error
