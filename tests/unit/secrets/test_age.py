"""Encrypted files in repositories: their forms, and the errors of files that cannot be decrypted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.errors import Rejected
from waterflowd.secrets.age import AgeFiles, EncryptedFiles

VALUE = "s3cret-of-a-file"
TABLE = f'DEPLOY_KEY = "{VALUE}"\nother = """two\nlines"""\n'.encode()


class Commits:
    """The files of each repository and revision."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}

    async def read(self, repository: str, revision: str, paths: Sequence[str]) -> dict[str, bytes]:
        """See `age.ReadFiles`."""
        return {path: content for path, content in self.files[repository, revision].items() if path in paths}


@pytest.fixture
def identity() -> pyrage.x25519.Identity:
    """Returns the daemon's identity."""
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def key_file(tmp_path: Path, identity: pyrage.x25519.Identity) -> Path:
    """Returns the identity file as age-keygen writes it."""
    path = tmp_path / "ops.agekey"
    path.touch(mode=0o600)
    path.write_text(f"# created: 2026-11-24T12:00:00Z\n# public key: {identity.to_public()}\n{identity}\n")
    return path


def opened(key_file: Path, files: dict[str, bytes], *paths: str) -> tuple[AgeFiles, Commits]:
    """Opens the repository `ops`, whose commit `c1` has these files."""
    commits = Commits()
    commits.files["ops", "c1"] = files
    locked = EncryptedFiles(files=paths or tuple(files), identity_file=key_file)
    return AgeFiles({"ops": locked}, commits.read, key_file.parent / "data"), commits


def sealed(content: bytes, *identities: pyrage.x25519.Identity, armored: bool = False) -> bytes:
    """Returns the content, encrypted for these recipients."""
    return bytes(pyrage.encrypt(content, [one.to_public() for one in identities], armored=armored))


@pytest.mark.parametrize("armored", [False, True])
async def test_a_table_file_has_several_secrets_and_any_other_file_one(
    identity: pyrage.x25519.Identity, key_file: Path, armored: bool
) -> None:
    """The file name decides; a trailing newline of a single value is stripped."""
    files = {
        "secrets/all.toml.age": sealed(TABLE, identity, armored=armored),
        "secrets/TLS-Key.age": sealed(b"line\nline\n", identity, armored=armored),
    }
    age, _ = opened(key_file, files)
    values, held_s = await age.read("ops", "c1")
    assert values == {"deploy_key": VALUE, "other": "two\nlines", "tls_key": "line\nline"}
    assert held_s > 0


async def test_one_of_several_recipients_is_enough_and_so_is_one_of_several_identities(
    identity: pyrage.x25519.Identity, key_file: Path
) -> None:
    """Keys can therefore be rotated without an interruption."""
    alice, newer = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    with key_file.open("a") as file:
        file.write(f"\n{newer}\n")
    for recipients in ((alice, identity), (identity, alice), (newer,)):
        age, _ = opened(key_file, {"a.toml.age": sealed(TABLE, *recipients)})
        assert (await age.read("ops", "c1"))[0]["deploy_key"] == VALUE


async def test_the_first_of_several_files_with_a_name_wins(identity: pyrage.x25519.Identity, key_file: Path) -> None:
    """Files are searched in the order of the configuration."""
    files = {"b.toml.age": sealed(b'x = "second"', identity), "x.age": sealed(b"first", identity)}
    age, _ = opened(key_file, files, "x.age", "b.toml.age")
    assert (await age.read("ops", "c1"))[0] == {"x": "first"}


async def test_a_revision_has_its_own_files_and_may_have_none(identity: pyrage.x25519.Identity, key_file: Path) -> None:
    """Without files, no identity is needed either."""
    age, commits = opened(key_file, {"x.age": sealed(b"old", identity)})
    commits.files["ops", "c2"] = {"x.age": sealed(b"new", identity)}
    commits.files["ops", "c3"] = {}
    assert [(await age.read("ops", commit))[0] for commit in ("c1", "c2", "c3")] == [{"x": "old"}, {"x": "new"}, {}]
    _gone(key_file)
    assert (await age.read("ops", "c3"))[0] == {}
    assert age.has("ops")
    assert not age.has("web")
    assert not age.has(None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot decrypt"),
        (b"DEPLOY_KEY = plain", "cannot decrypt"),
        (b"age-encryption.org/v1\n-> X25519 AAAA\nBBBB\n--- CCCC\n", "cannot decrypt"),
        (bytes(pyrage.passphrase.encrypt(TABLE, "passphrase")), "cannot decrypt"),
        (sealed(TABLE, pyrage.x25519.Identity.generate()), "No matching keys"),
    ],
    ids=["empty", "not encrypted", "a broken header", "a passphrase", "another key"],
)
async def test_a_file_that_cannot_be_decrypted_is_reported_without_its_content(
    key_file: Path, content: bytes, message: str
) -> None:
    """The error names the path."""
    age, _ = opened(key_file, {"secrets/all.toml.age": content})
    with pytest.raises(Rejected, match=r"secrets/all\.toml\.age") as raised:
        await age.read("ops", "c1")
    assert raised.value.code == "WF626"
    assert message in raised.value.text
    assert VALUE not in str(raised.value)


async def test_a_truncated_or_changed_file_is_not_decrypted(identity: pyrage.x25519.Identity, key_file: Path) -> None:
    """Its authentication covers the whole file."""
    whole = sealed(TABLE, identity)
    for content in (whole[:-1], whole[:-20], whole[:-1] + bytes([whole[-1] ^ 1])):
        age, _ = opened(key_file, {"all.toml.age": content})
        with pytest.raises(Rejected, match="cannot decrypt"):
            await age.read("ops", "c1")


@pytest.mark.parametrize(
    ("path", "content"),
    [("a.toml.age", f'x = "{VALUE}'), ("a.toml.age", f'x = ["{VALUE}"]'), ("a.toml.age", f'"{VALUE}"')],
)
async def test_an_invalid_table_is_reported_without_its_lines(
    identity: pyrage.x25519.Identity, key_file: Path, path: str, content: str
) -> None:
    """The parser's message could quote a line, so it is not used."""
    age, _ = opened(key_file, {path: sealed(content.encode(), identity)})
    with pytest.raises(Rejected) as raised:
        await age.read("ops", "c1")
    assert path in raised.value.text
    assert VALUE not in str(raised.value)


async def test_a_single_value_is_text(identity: pyrage.x25519.Identity, key_file: Path) -> None:
    """Other bytes cannot be in an environment variable."""
    age, _ = opened(key_file, {"x.age": sealed(b"\xff\xfe", identity)})
    with pytest.raises(Rejected, match=r"x\.age does not hold UTF-8 text"):
        await age.read("ops", "c1")


def _in_data_dir(key_file: Path) -> Path:
    data = key_file.parent / "data"
    data.mkdir()
    return key_file.rename(data / "ops.agekey")


def _linked_into_data_dir(key_file: Path) -> Path:
    link = key_file.parent / "link"
    link.symlink_to(_in_data_dir(key_file))
    return link


def _readable(key_file: Path) -> Path:
    key_file.chmod(0o640)
    return key_file


def _directory(key_file: Path) -> Path:
    return key_file.parent


def _with_ssh_key(key_file: Path) -> Path:
    key_file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    return key_file


def _empty(key_file: Path) -> Path:
    key_file.write_text("# nothing\n")
    return key_file


def _gone(key_file: Path) -> Path:
    key_file.unlink()
    return key_file


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_in_data_dir, "is in the data directory"),
        (_linked_into_data_dir, "is in the data directory"),
        (_readable, "can be read by other users"),
        (_directory, "is not a regular file"),
        (_with_ssh_key, "AGE-SECRET-KEY-1"),
        (_empty, "holds 0 identities"),
        (_gone, "cannot be read"),
    ],
)
async def test_an_unusable_identity_file_is_refused_by_check_and_by_each_read(
    identity: pyrage.x25519.Identity, key_file: Path, spoil: object, message: str
) -> None:
    """Its path, its mode or its content is wrong. The error names the configuration key and quotes no line."""
    assert callable(spoil)
    content = sealed(TABLE, identity)
    spoiled = spoil(key_file)
    commits = Commits()
    commits.files["ops", "c1"] = {"x.toml.age": content}
    locked = EncryptedFiles(files=("x.toml.age",), identity_file=spoiled)
    age = AgeFiles({"ops": locked}, commits.read, key_file.parent / "data")
    with pytest.raises(Rejected, match="WF622") as raised:
        age.check()
    assert "age-identity-file" in raised.value.text
    assert message in raised.value.text
    with pytest.raises(Rejected, match="WF622"):
        await age.read("ops", "c1")


IDENTITY = pyrage.x25519.Identity.generate()
WHOLE = sealed(TABLE, IDENTITY)


@given(st.one_of(st.binary(max_size=300), st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))))
def test_any_bytes_are_decrypted_or_refused(content: bytes | tuple[int, int]) -> None:
    """Hostile content has no other effect."""
    if isinstance(content, tuple):
        offset, change = content
        content = WHOLE[:offset] + bytes([WHOLE[offset] ^ change]) + WHOLE[offset + 1 :]
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(content, [IDENTITY])
