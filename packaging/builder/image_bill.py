"""Writes the bill of materials of a container image, inside of it: `-m builder.image_bill DISTRIBUTION ENVIRONMENT FILE`.

It lists the Python distributions in the virtual environment and all installed Debian packages. Needs only the standard library.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from builder import bill
from builder.cpython import Part


def main(name: str, environment: Path, target: Path) -> None:
    """Writes the bill of the image that contains the distribution `name` to `target`."""
    (library,) = environment.glob("lib/python3*/site-packages")
    (found,) = metadata.distributions(name=name, path=[str(library)])
    release = platform.freedesktop_os_release().get("VERSION_ID", "")
    at_s = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    bill.write(target, name, found.version, library, _packages(), at_s, release)


def _packages() -> list[Part]:
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Part(name=name, version=version) for name, version in map(str.split, lines)]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
