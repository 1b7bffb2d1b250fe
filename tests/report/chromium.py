"""Chromium without a window, driven through a pipe: opens a page, runs script in it, presses keys, hears its errors.

The DevTools protocol over file descriptors 3 and 4, a JSON message and a NUL each, needs neither a driver nor a
library.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Browser:
    """One tab of a running Chromium."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._unread = commands, answers, b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {} if self._session is None else {"sessionId": self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def open(self, path: Path, anchor: str = "", *, width: int = 1280, is_dark: bool = False) -> None:
        """Open a file and wait until its scripts have run."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=f"{path.as_uri()}{anchor and '#'}{anchor}")
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            pass
        self.run("new Promise((done) => setTimeout(done, 50))")

    def run(self, expression: str) -> Any:
        """Return the value of an expression, which may be a promise; it must be JSON."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, e.g. Enter, Tab or ArrowRight, where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=13 * bool(text), **text
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            piece = os.read(self._answers, 1 << 20)
            assert piece, "Chromium has gone"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if found.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(found["params"]["exceptionDetails"]))
        if found.get("method") == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
            self.errors.append(found["params"]["entry"]["text"])
        return found


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start Chromium with its profile in `folder`; skips the test, and says so, where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    to_it, commands = os.pipe()
    answers, from_it = os.pipe()
    words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", f"--user-data-dir={folder}"]  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{to_it} 4>&{from_it}', "bash", *words],
        pass_fds=(to_it, from_it),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_it)
    os.close(from_it)
    try:
        browser = Browser(commands, answers)
        yield browser
        browser.send("Browser.close")
    finally:
        os.close(commands)
        os.close(answers)
        process.kill()
        process.wait()
