"""A browser for tests: chromium, driven by chromedriver over the WebDriver protocol, with the standard library."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = next((n for n, p in (("a browser (chromium)", CHROMIUM), ("chromedriver", DRIVER)) if p is None), None)
QUIET = "headless no-sandbox disable-gpu disable-background-networking disable-component-update disable-sync"
KEYS = {"ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Home": "\ue011", "Enter": "\ue007"}


class Browser:
    """One window. https://www.w3.org/TR/webdriver2"""

    def __init__(self, address: str, profile: Path) -> None:
        self._address = address
        flags = [f"--{flag}" for flag in QUIET.split()] + [f"--user-data-dir={profile}", "--window-size=1200,1400"]
        options = {"binary": CHROMIUM, "args": flags}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        found = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{found['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def open(self, file: Path) -> None:
        self._send("POST", f"{self._session}/url", {"url": file.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the JavaScript function body returns."""
        return self._send("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def find(self, selector: str) -> dict[str, str]:
        return self._send("POST", f"{self._session}/element", {"using": "css selector", "value": selector})

    def click(self, selector: str) -> None:
        (element,) = self.find(selector).values()
        self._send("POST", f"{self._session}/element/{element}/click", {})

    def hover(self, selector: str) -> None:
        move = {"type": "pointerMove", "duration": 0, "origin": self.find(selector), "x": 0, "y": 0}
        self._act({"type": "pointer", "id": "mouse", "actions": [move]})

    def press(self, key: str) -> None:
        actions = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keyboard", "actions": actions})

    def _act(self, source: dict[str, Any]) -> None:
        self._send("POST", f"{self._session}/actions", {"actions": [source]})

    def complaints(self) -> list[str]:
        """What the page has written to the console so far: errors and warnings."""
        return [entry["message"] for entry in self._send("POST", f"{self._session}/se/log", {"type": "browser"})]

    def close(self) -> None:
        self._send("DELETE", self._session)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A window with a profile in the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        window = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait()
