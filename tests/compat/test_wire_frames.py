"""Recorded frames of every protocol version: later versions must still understand them.

`frames/v<protocol>-<name>.frame` contains the bytes, `EXPECTED` their meaning. A recorded file is never changed. After adding
a kind of message or a field, add an entry and run this file as a program: it records only what is missing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages

FRAMES = Path(__file__).parent / "frames"
TOKEN = "5f0c6b1d9e2a48b7a3c1d4e5f6071829"
KEY = task_id("01J8XQ5T3MZ6V0K9B7N2C4D1EF", "deploy", "migrate", 2, 7)
_TASK = messages.Task(
    key=KEY,
    node="shell",
    params={"run": "make test"},
    env={},
    step_name="test",
    working_directory=None,
    timeout_ms=60_000,
    stop_signal="SIGTERM",
    grace_ms=10_000,
    output_bytes_max=1 << 20,
    boot_id="2c26b46b-68ff-c68f",
    instance="b7c1",
)
OTHER = task_id("01J8XQ5T3MZ6V0K9B7N2C4D1EG", "build", "1", 1, 6)
#: What an agent without anything else says first.
_HELLO = messages.Hello(
    session=TOKEN,
    protocol=1,
    protocol_min=1,
    agent_version="0.1.0",
    instance="b7c1",
    machine_id="",
    boot_id="2c26b46b-68ff-c68f",
    slots=4,
    hostname="web-1.example",
    os="linux",
    arch="x86_64",
    labels={},
    nodes=["shell"],
    held=[],
)

#: Name -> sender, acknowledgement, first number, numbered messages and loose messages.
EXPECTED: dict[str, tuple[codec.Side, int, int, list[messages.Message], list[messages.Message]]] = {
    "v1-hello": (
        codec.Side.AGENT,
        0,
        1,
        [],
        [
            msgspec.structs.replace(
                _HELLO,
                machine_id="9f86d081884c7d65",
                labels={"zone": "a", "größe": "klein"},
                nodes=["run", "docker"],
                held=[
                    messages.HeldAttempt(key=KEY, state=messages.AttemptState.STARTED),
                    messages.HeldAttempt(key=OTHER, state=messages.AttemptState.FINISHED),
                ],
            )
        ],
    ),
    "v1-welcome-and-offer": (
        codec.Side.DAEMON,
        0,
        1,
        [
            messages.Offer(
                task=messages.Task(
                    key=KEY,
                    node="run",
                    params={
                        "script": "set -e\nmake deploy\n",
                        "retries": 3,
                        "ratio": 0.5,
                        "none": None,
                        "list": [1, "two", True],
                    },
                    env={"STAGE": "prod"},
                    step_name="Migrate",
                    working_directory=None,
                    timeout_ms=3_600_000,
                    stop_signal="TERM",
                    grace_ms=10_000,
                    output_bytes_max=10_485_760,
                    boot_id="2c26b46b-68ff-c68f",
                    instance="b7c1",
                )
            )
        ],
        [
            messages.Welcome(
                session=TOKEN,
                protocol=1,
                generation=7,
                name="web-1",
                groups=["web", "eu"],
                silence_ms=6_000,
                forget=[OTHER],
            )
        ],
    ),
    "v1-offer-with-secrets": (
        codec.Side.DAEMON,
        0,
        1,
        [
            messages.Offer(
                task=messages.Task(
                    key=KEY,
                    node="shell",
                    params={"run": "make deploy"},
                    env={"TOKEN": "Bearer s3cret"},
                    step_name="Deploy",
                    working_directory="app",
                    timeout_ms=3_600_000,
                    stop_signal="TERM",
                    grace_ms=10_000,
                    output_bytes_max=10_485_760,
                    boot_id="2c26b46b-68ff-c68f",
                    instance="b7c1",
                    secrets=["s3cret"],
                )
            )
        ],
        [],
    ),
    "v1-offer-with-tree": (
        codec.Side.DAEMON,
        0,
        1,
        [
            messages.Offer(
                task=messages.Task(
                    key=KEY,
                    node="shell",
                    params={"run": "make deploy"},
                    env={},
                    step_name="Deploy",
                    working_directory=None,
                    timeout_ms=3_600_000,
                    stop_signal="TERM",
                    grace_ms=10_000,
                    output_bytes_max=10_485_760,
                    boot_id="2c26b46b-68ff-c68f",
                    instance="b7c1",
                    tree=messages.Tree("ops", "1" * 40, ["app/**", "!app/docs/**"]),
                )
            )
        ],
        [],
    ),
    "v1-file-request": (
        codec.Side.AGENT,
        1,
        1,
        [],
        [messages.FileRequest(KEY, 1, [], 262_144), messages.FileRequest(KEY, 2, [b"\x01" * 20, b"\xff" * 20], 0)],
    ),
    "v1-file-response": (
        codec.Side.DAEMON,
        1,
        1,
        [],
        [
            messages.FileResponse(KEY, 2, [messages.FileChunk(3, b"one"), messages.FileChunk(1_000_000, b"\x00\xff")]),
            messages.FileResponse(KEY, 1, [], "WF503", "the repository cannot be read", 5_000),
        ],
    ),
    "v1-artifact-requests": (
        codec.Side.AGENT,
        1,
        1,
        [],
        [
            messages.ArtifactRequest(KEY, 1, messages.BeginArtifact("site", False, 3, 1_000_000)),
            messages.ArtifactRequest(KEY, 2, messages.FindBlocks([b"\x01" * 32, b"\xff" * 32])),
            messages.ArtifactRequest(KEY, 3, messages.StoreBlock(b"\x01" * 32, b"\x00one")),
            messages.ArtifactRequest(
                KEY,
                4,
                messages.CommitArtifact("site", True, 3, 1_000_000, [b"\x02" * 32], [b"\x03" * 32], 7),
            ),
            messages.ArtifactRequest(KEY, 5, messages.ListArtifacts("site")),
            messages.ArtifactRequest(
                KEY, 6, messages.ReadBlock("site", b"\x04" * 32, messages.ArtifactPart.CONTENT, 5)
            ),
        ],
    ),
    "v1-artifact-responses": (
        codec.Side.DAEMON,
        1,
        1,
        [],
        [
            messages.ArtifactResponse(KEY, 1, messages.ArtifactAccepted()),
            messages.ArtifactResponse(KEY, 2, messages.MissingBlocks([0, 7])),
            messages.ArtifactResponse(
                KEY,
                3,
                messages.ArtifactsListed(
                    [messages.ArtifactRow("site", b"\x04" * 32, 3, 1_000_000, [b"\x02" * 32], [b"\x03" * 32])]
                ),
            ),
            messages.ArtifactResponse(KEY, 4, messages.BlockRead(b"\x00one")),
            messages.ArtifactResponse(KEY, 5, None, "WF330", "too many bytes", 500),
        ],
    ),
    "v1-cache-requests": (
        codec.Side.AGENT,
        1,
        1,
        [],
        [
            messages.ArtifactRequest(KEY, 1, messages.BeginCache("npm-1", b"\x05" * 32, 3, 1_000_000)),
            messages.ArtifactRequest(
                KEY,
                2,
                messages.CommitCache("npm-1", b"\x05" * 32, 3, 1_000_000, [b"\x02" * 32], [b"\x03" * 32]),
            ),
            messages.ArtifactRequest(KEY, 3, messages.FindCache(["npm-1", "npm-"], b"\x05" * 32)),
            messages.ArtifactRequest(
                KEY,
                4,
                messages.ReadCacheBlock("npm-1", b"\x05" * 32, b"\x04" * 32, messages.ArtifactPart.TABLE, 5),
            ),
            messages.ArtifactRequest(KEY, 5, messages.FindCacheOrigin()),
        ],
    ),
    "v1-cache-responses": (
        codec.Side.DAEMON,
        1,
        1,
        [],
        [
            messages.ArtifactResponse(KEY, 1, messages.CacheAccepted(False)),
            messages.ArtifactResponse(
                KEY,
                3,
                messages.CacheFound(
                    messages.CacheRow("npm-1", b"\x04" * 32, 3, 1_000_000, [b"\x02" * 32], [b"\x03" * 32])
                ),
            ),
            messages.ArtifactResponse(KEY, 4, messages.CacheFound(None)),
            messages.ArtifactResponse(KEY, 5, messages.CacheOrigin("ops", ("refs/heads/x", "refs/heads/main"))),
        ],
    ),
    "v1-artifact-requests-in-a-bucket": (
        codec.Side.AGENT,
        1,
        1,
        [],
        [
            messages.ArtifactRequest(KEY, 1, messages.FindBlocks([b"\x01" * 32, b"\xff" * 32], [1, 262_144], True)),
            messages.ArtifactRequest(KEY, 3, messages.StoreBlock(b"\x01" * 32, b"one", True)),
            messages.ArtifactRequest(
                KEY, 2, messages.ReadBlock("site", b"\x04" * 32, messages.ArtifactPart.CONTENT, 5, 64)
            ),
        ],
    ),
    "v1-artifact-responses-in-a-bucket": (
        codec.Side.DAEMON,
        1,
        1,
        [],
        [
            messages.ArtifactResponse(
                KEY,
                1,
                messages.MissingBlocks(
                    [0, 7],
                    [messages.BlockAddress("https://s3.example.org/b/k?X-Amz-Signature=1", {"content-length": "1"})],
                ),
            ),
            messages.ArtifactResponse(
                KEY, 2, messages.BlockAddresses([messages.BlockAddress("https://s3.example.org/b/k?X-Amz-Signature=2")])
            ),
        ],
    ),
    "v1-finished-with-a-summary": (
        codec.Side.AGENT,
        1,
        1,
        [messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {}, {}, 1, 2, 0, 0, "# Deployed\n")],
        [],
    ),
    "v1-finished-with-annotations": (
        codec.Side.AGENT,
        1,
        1,
        [messages.Finished(KEY, Outcome.FAILURE, 1, "", "", {}, {}, 1, 2, 0, 0, "", ["##[error]a.c:3: broken"])],
        [],
    ),
    "v1-started-and-finished": (
        codec.Side.AGENT,
        1,
        1,
        [
            messages.Started(key=KEY, at=1_764_000_000_000),
            messages.Finished(
                key=KEY,
                outcome=Outcome.FAILURE,
                exit_code=3,
                reason_code="",
                reason_text="exit code 3",
                outputs={"version": "1.2.3", "count": 9_007_199_254_740_991},
                env={"NEXT": "yes"},
                started_at=1_764_000_000_000,
                finished_at=1_764_000_001_234,
                output_bytes=42,
                output_dropped=0,
            ),
            *(
                messages.Finished(OTHER, outcome, None, "", "", {}, {}, 1, 2, 0, 0)
                for outcome in Outcome
                if outcome is not Outcome.FAILURE
            ),
        ],
        [
            messages.Output(
                key=KEY,
                offset=0,
                chunks=[
                    messages.OutputChunk(at=1, stream=1, data=b"line\n"),
                    messages.OutputChunk(at=2, stream=2, data=b"\xff\x00"),
                ],
            )
        ],
    ),
    "v1-release": (codec.Side.DAEMON, 3, 4, [messages.Release("01J8XQ5T3MZ6V0K9B7N2C4D1EF", "deploy")], []),
    "v1-release-of-a-failed-job": (
        codec.Side.DAEMON,
        3,
        4,
        [messages.Release("01J8XQ5T3MZ6V0K9B7N2C4D1EF", "deploy", is_kept=True)],
        [],
    ),
    "v1-hello-with-jobs": (
        codec.Side.AGENT,
        0,
        1,
        [],
        [
            msgspec.structs.replace(
                _HELLO,
                jobs=[("01J8XQ5T3MZ6V0K9B7N2C4D1EF", "deploy")],
            )
        ],
    ),
    "v1-hello-with-own-nodes": (
        codec.Side.AGENT,
        0,
        1,
        [],
        [
            msgspec.structs.replace(
                _HELLO,
                nodes=["shell", "shop/greet"],
                own_nodes=[
                    messages.OwnNode(
                        "shop/greet", "server", "9f86d081884c7d65", "Greets.", [("who", True)], "it broke"
                    ),
                    messages.OwnNode("shop/sell", "package", "shop-nodes 1.2"),
                ],
            )
        ],
    ),
    "v1-hello-with-a-docker-engine": (
        codec.Side.AGENT,
        0,
        1,
        [],
        [
            msgspec.structs.replace(
                _HELLO,
                docker=messages.DockerEngine("28.5.1", "the program docker is not installed"),
            )
        ],
    ),
    "v1-offer-with-source": (
        codec.Side.DAEMON,
        0,
        2,
        [
            messages.Offer(
                task=msgspec.structs.replace(
                    _TASK, node="shop/greet", params={"who": "Ada"}, step_name="greet", source="class Greet: ...\n"
                )
            )
        ],
        [],
    ),
    "v1-offer-of-a-continued-job": (
        codec.Side.DAEMON,
        0,
        2,
        [
            messages.Offer(
                task=msgspec.structs.replace(_TASK, continues=messages.JobName("01J8XQ5T3MZ6V0K9B7N2C4D1EE", "deploy"))
            )
        ],
        [],
    ),
    "v1-cancel-and-output-ack": (
        codec.Side.DAEMON,
        3,
        2,
        [
            messages.Cancel(key=KEY, force=False, reason="cancelled by alice"),
            messages.Cancel(key=OTHER, force=True, reason=""),
        ],
        [messages.OutputAck(key=KEY, offset=42)],
    ),
    "v1-reject": (
        codec.Side.DAEMON,
        0,
        1,
        [],
        [messages.Reject(session=TOKEN, code="WF210", text="upgrade the agent", after_ms=60_000)],
    ),
    "v1-key-rotated": (
        codec.Side.DAEMON,
        0,
        1,
        [],
        [messages.KeyRotated(TOKEN, "n" * 40, [messages.OldServerKey("o" * 40, 1_790_000_000_000)])],
    ),
    "v1-welcome-with-old-keys": (
        codec.Side.DAEMON,
        0,
        1,
        [],
        [
            messages.Welcome(
                session=TOKEN,
                protocol=1,
                generation=3,
                name="web-1",
                groups=["web"],
                silence_ms=15_000,
                forget=[],
                old_server_keys=[messages.OldServerKey("o" * 40, 1_790_000_000_000)],
            )
        ],
    ),
    "v1-reset": (codec.Side.DAEMON, 0, 1, [], [messages.Reset(text="say hello again")]),
    "v1-keep-alive": (codec.Side.AGENT, 12, 5, [], []),
}
ENROLL_REQUEST = messages.EnrollRequest(1, "wfj_token", "web-1", ["web"], "web-1.example", "9f86d081884c7d65", "0.1.0")
ENROLL_ANSWER = messages.EnrollAnswer("approved", "welcome", "SHA256:abc", "web-1", ["web"], "tcp://:7601", 0)
ANSWER_TO_A_SPENT_TOKEN = msgspec.structs.replace(ENROLL_ANSWER, is_token_spent=True)


def encoded(name: str) -> bytes:
    _, ack, first, numbered, loose = EXPECTED[name]
    return codec.encode_frame(
        TOKEN, ack, first, [*map(codec.encode_message, numbered)], [*map(codec.encode_message, loose)]
    )


def recorded(name: str) -> bytes:
    return (FRAMES / f"{name}.frame").read_bytes()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_frame_decodes_to_the_same_values(name: str) -> None:
    """Bytes of an older release decode to the same values today."""
    sender, ack, first, numbered, loose = EXPECTED[name]

    frame = codec.decode_frame(recorded(name), sender)

    assert (frame.session, frame.ack, frame.first_number) == (TOKEN, ack, first)
    assert frame.numbered == numbered
    assert frame.loose == loose


def test_a_recorded_enrollment_decodes_to_the_same_values() -> None:
    """An older agent can enroll, and understands the answer."""
    assert codec.decode_enroll_request(recorded("v1-enroll-request")) == ENROLL_REQUEST
    assert codec.decode_enroll_answer(recorded("v1-enroll-answer")) == ENROLL_ANSWER
    assert codec.decode_enroll_answer(recorded("v1-enroll-answer-to-a-spent-token")) == ANSWER_TO_A_SPENT_TOKEN


def test_every_recorded_frame_has_expected_values() -> None:
    """No recording can be skipped by mistake."""
    names = {path.stem for path in FRAMES.glob("*.frame")}

    assert names == {*EXPECTED, "v1-enroll-request", "v1-enroll-answer", "v1-enroll-answer-to-a-spent-token"}


def test_this_version_encodes_as_recorded() -> None:
    """Today's bytes start like the recorded ones, before fields that were added later, so an older peer can read them."""
    for name in EXPECTED:
        sender = EXPECTED[name][0]
        assert codec.decode_frame(encoded(name), sender) == codec.decode_frame(recorded(name), sender)


def _record() -> None:
    """Writes the frames that are not recorded yet."""
    made = {name: encoded(name) for name in EXPECTED}
    made["v1-enroll-request"] = bytes(memoryview(codec.encode_message(ENROLL_REQUEST)))
    made["v1-enroll-answer"] = bytes(memoryview(codec.encode_message(ENROLL_ANSWER)))
    made["v1-enroll-answer-to-a-spent-token"] = bytes(memoryview(codec.encode_message(ANSWER_TO_A_SPENT_TOKEN)))
    for name, content in made.items():
        path = FRAMES / f"{name}.frame"
        if not path.exists():
            path.write_bytes(content)


if __name__ == "__main__":
    _record()
