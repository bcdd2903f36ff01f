"""Opens the object storage at an address: `dir:/path`, or `s3://bucket/prefix`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from waterflow_agent.errors import Rejected
from waterflowd.objects.directory import DirectoryObjects
from waterflowd.ports import Objects

#: Names of buckets as S3 allows them, and a prefix of ordinary characters without empty parts, `.` and `..`.
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*)/?")


def open_objects(address: str, environment: Mapping[str, str]) -> Objects:
    """The storage at an address; nothing is read or written yet. Raises `Rejected` WF620 for an invalid address."""
    if address.startswith("dir:"):
        path = Path(address.removeprefix("dir:"))
        if not path.is_absolute():
            raise Rejected("WF620", f"{address!r}: expected an absolute directory, such as dir:/srv/waterflow")
        if not path.is_dir():
            raise Rejected("WF620", f"{address!r}: there is no such directory; create it for the user of the service")
        return DirectoryObjects(path)
    found = _S3.fullmatch(address)
    if found is None:
        raise Rejected("WF620", f"{address!r}: expected s3://bucket/prefix or dir:/path")
    try:
        from waterflowd.objects.s3 import S3Objects
    except ImportError as error:
        # With this Python: elsewhere, the public index has another project of the name.
        command = f"{sys.executable} -m pip install 'waterflow[s3]'"
        raise Rejected("WF620", f"{address!r} needs the library obstore; next: {command}") from error
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None
    return S3Objects(found[1], found[2].strip("/"), endpoint=endpoint)
