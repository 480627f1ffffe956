"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within the context, `signal_number` is the signal that asked to stop, or None.

    The second signal ends the process immediately; files are written atomically, so nothing is half done.
    A thread of its own reads the signals, because Python's handlers wait for the end of a long operation.
    To be entered in the main thread.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        # The number is written to the pipe only where Python has a handler, which itself has nothing to do.
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write_end)
        self._thread.join()
        os.close(self._read_end)

    def _listen(self) -> None:
        while received := os.read(self._read_end, 1):
            number = received[0]
            if number not in SIGNALS:
                continue
            if self.signal_number is not None:
                os._exit(128 + number)
            self.signal_number = number
            os.write(2, b"Stopping after this step (once more: stop at once) ...\n")
