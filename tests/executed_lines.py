"""Counts the executed lines of a folder of the product: a measure of cost that does not depend on the machine."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any


class ExecutedLines:
    """Counts the executed lines of the files below `folder` while it is active."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.count = 0

    def __enter__(self) -> ExecutedLines:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._folder) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.count += event == "line"
        return self._line
