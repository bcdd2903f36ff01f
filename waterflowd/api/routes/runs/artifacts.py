"""The artifacts of a run: a list, the files of one, their content, and their deletion."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import check_plan
from waterflowd.api.dependencies import Ports, Runner, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.run_lookup import read_run, resolve
from waterflowd.api.schemas.artifacts import ArtifactDetailsSchema, ArtifactListSchema, ArtifactSchema
from waterflowd.api.services import Services
from waterflowd.api.streaming import raw_output, streams
from waterflowd.artifacts.reading import ArtifactReader

router = APIRouter(tags=["runs"])

FILES_MAX = 1_000
NO_ARTIFACTS = "artifacts are not available on the Temporal engine"
_TAR, _FILE = "application/x-tar", "application/octet-stream"
Name = Annotated[str, Path(max_length=300, description="Name of the artifact.")]
FilePath = Annotated[
    str | None, Query(max_length=4_096, description="One file; by default all files, as a tar archive.")
]


@router.get("/v1/runs/{run_id}/artifacts", responses={200: returns(ArtifactListSchema)})
async def list_artifacts(services: Ports, _: Viewer, run_id: str) -> Response:
    """The artifacts of a run by name, also those that were removed; at most 1,000."""
    reader = _reader(services)
    found = await reader.of_run(await resolve(services, run_id))
    now = services.clock.now()
    return json_response(ArtifactListSchema(artifacts=[ArtifactSchema.of(record, now) for record in found]))


@router.get("/v1/runs/{run_id}/artifacts/{name}", responses={200: returns(ArtifactDetailsSchema)})
async def read_artifact(
    services: Ports,
    _: Viewer,
    run_id: str,
    name: Name,
    after: Annotated[int, Query(ge=0, le=1 << 31, description="How many files to skip.")] = 0,
    limit: Annotated[int, Query(ge=1, le=FILES_MAX, description="Maximum number of files.")] = FILES_MAX,
) -> Response:
    """An artifact and its files."""
    reader = _reader(services)
    found = await reader.open(await resolve(services, run_id), name)
    end = after + limit
    following = end if end < len(found.files) else None
    return json_response(
        ArtifactDetailsSchema.of(found.record, services.clock.now(), found.tar_size, found.files[after:end], following),
    )


@router.delete("/v1/runs/{run_id}/artifacts/{name}", responses={200: returns(ArtifactSchema)})
async def delete_artifact(services: Ports, principal: Runner, run_id: str, name: Name) -> Response:
    """Delete an artifact. Its space is free at once, except for blocks that other artifacts have as well."""
    if services.artifact_deleter is None:
        raise _unavailable()
    run = await resolve(services, run_id)
    check_plan(principal, (await read_run(services, run)).plan)
    record = await services.artifact_deleter.delete(run, name, principal.name)
    await services.audit.action(principal, "delete-artifact", run, name=name, bytes=record.size)
    return json_response(ArtifactSchema.of(record, services.clock.now()))


@router.get(
    "/v1/runs/{run_id}/artifacts/{name}/content",
    response_class=Response,
    responses={200: {"content": {_TAR: {}, _FILE: {}}}, 206: {"content": {_TAR: {}, _FILE: {}}}, 416: {}},
)
async def download_artifact(
    request: Request, services: Ports, _: Viewer, run_id: str, name: Name, path: FilePath = None
) -> Response:
    """All files of an artifact as a tar archive, or one file; `Range` selects a part of the bytes.

    The bytes are always the same, so a download can be continued; the `ETag` changes if the artifact was replaced. With
    `If-Range`, a client that has the beginning of a replaced artifact gets all bytes of the new one.
    """
    reader = _reader(services)
    found = await reader.open(await resolve(services, run_id), name)
    if path is None:
        origin, size, read, media_type = 0, found.tar_size, found.read_tar, _TAR
    else:
        origin, size = found.file(path)
        read, media_type = found.read_content, _FILE
    tag = f'"{found.tag}"'
    is_same = request.headers.get("if-range", tag) == tag
    selected = raw_output.parse_range(request.headers.get("range"), size) if is_same else None
    begin, end = selected or (0, size)
    content = reader.chunks(read, origin + begin, origin + end)
    response = streams.Stream(streams.admit(request), content, media_type, is_live=False)
    response.headers["etag"] = tag
    response.headers["accept-ranges"] = "bytes"
    response.headers["content-length"] = str(end - begin)
    file_name = (
        raw_output.safe_name([name]) + ".tar" if path is None else raw_output.safe_name([path.rpartition("/")[2]])
    )
    response.headers["content-disposition"] = f'attachment; filename="{file_name}"'
    response.headers["x-content-type-options"] = "nosniff"
    if selected is not None:
        response.status_code = 206
        response.headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    return response


def _reader(services: Services) -> ArtifactReader:
    if services.artifacts is None:
        raise _unavailable()
    return services.artifacts


def _unavailable() -> Rejected:
    return Rejected("WF335", NO_ARTIFACTS, status=404)
