"""Which files are pointers of Git LFS."""

from __future__ import annotations

import pytest

from waterflowd.gitsource.lfs.pointers import LargeFile, parse

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n"


def test_a_pointer_names_a_content() -> None:
    """The example of the specification."""
    assert parse(POINTER.encode()) == LargeFile(OID, 12345)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12345",
        POINTER + "\n",
        POINTER + "x",
        " " + POINTER,
        POINTER.replace("\n", "\r\n"),
        POINTER.replace("sha256:", "sha1:"),
        POINTER.replace(OID, OID.upper()),
        POINTER.replace(OID, OID[1:]),
        POINTER.replace(OID, "../../../../../../etc/passwd"),
        POINTER.replace("12345", "-1"),
        POINTER.replace("12345", "012"),
        POINTER.replace("12345", "1e9"),
        POINTER.replace("12345", "9" * 19),
        POINTER.replace("v1", "v2"),
        POINTER.replace("oid", "ext-0-foo sha256:1\noid"),
    ],
)
def test_anything_else_is_an_ordinary_file(text: str) -> None:
    """It is sent as it is; nothing in it becomes a path or a size."""
    assert parse(text.encode()) is None
