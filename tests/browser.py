"""A real Chromium without a screen, driven through chromedriver (W3C WebDriver), for pages that tests look at."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)

_CLICK = """
const [text, tag] = arguments
const says = element => element && (element.innerText || element.textContent || '').trim() === text
const found = [...document.querySelectorAll(tag)].filter(e => says(tag === '*' ? e : e.parentElement))
found[found.length - 1].dispatchEvent(new MouseEvent('click', {bubbles: true}))
"""


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session  # its address at the driver

    def open(self, url: str) -> None:
        """Go to a page."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the JavaScript function body `script` returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self) -> str:
        """The text that the page shows."""
        return str(self.run("return document.body.innerText"))

    def wait_for_text(self, *wanted: str, patience_s: float = 30.0) -> str:
        """The page's text, once it shows all that is `wanted`; fails the test where that takes too long."""
        end = time.monotonic() + patience_s
        while True:
            text = self.text()
            missing = [one for one in wanted if one not in text]
            if not missing:
                return text
            assert time.monotonic() < end, f"not within {patience_s:.0f} s: {missing}; the page says:\n{text}"
            time.sleep(0.2)

    def click(self, text: str, tag: str = "*") -> None:
        """Click the smallest element with this text (`tag`: of this kind, in an element with this text)."""
        self.run(_CLICK, text, tag)

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self._ask("POST", "/actions", {"actions": [mouse]})

    def click_at(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window and click there."""
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        click = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move, *click]}
        self._ask("POST", "/actions", {"actions": [mouse]})

    def press(self, key: str) -> None:
        """Press and release a key: a letter, or its code point in the WebDriver standard."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def command(self, name: str, **parameters: Any) -> Any:
        """The answer to a command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _ask(method, self._session + path, body)


@contextmanager
def browser(profile: Path, *, width: int = 1400, height: int = 900) -> Iterator[Browser]:
    """A window on a new, empty profile in the folder `profile`."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "successfully" in line)  # "... started successfully on port N."
        address = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}"
        options = {"args": [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        opened = _ask("POST", f"{address}/session", {"capabilities": capabilities})
        session = f"{address}/session/{opened['sessionId']}"
        try:
            yield Browser(session)
        finally:
            with suppress(OSError):  # else Chromium outlives its driver
                _ask("DELETE", session)
    finally:
        driver.terminate()
        driver.wait(10)
        if driver.stdout is not None:
            driver.stdout.close()


def _ask(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]
