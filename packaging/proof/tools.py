"""Checks for programs that a proof needs on this machine."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*programs: str) -> None:
    """Skips the test if a program is missing, or fails it if `WATERFLOW_PROOF_WHOLE` is set in the environment."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("the rights of root")
    if not missing:
        return
    text = f"missing here: {', '.join(missing)}; `make packages-nightly` installs what is needed"
    if os.environ.get("WATERFLOW_PROOF_WHOLE"):
        pytest.fail(text)
    pytest.skip(text)
