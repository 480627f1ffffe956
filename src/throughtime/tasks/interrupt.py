"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second leaves at once."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Within the context, `signal_number` is the signal that asked to stop, or None.

    The second signal ends the process immediately; files are written atomically, so nothing is half done.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number
        # os.write, because a handler may interrupt a print that holds the stream's lock.
        os.write(2, b"Stopping after this step (once more: stop at once) ...\n")
