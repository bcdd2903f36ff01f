"""The models of `container` and `services`: the containers of a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from waterflowd.dsl.models.field_types import FreeText, Text, TextsOrExpressions, VariableTexts, short_for, wrong
from waterflowd.dsl.models.model import LanguageModel, Page, key
from waterflowd.dsl.reporting.values import describe

_IMAGE = "image: postgres:16"


def container_spelling(value: object) -> object:
    """`container: IMAGE` and `container: {image: IMAGE}` are the same."""
    if isinstance(value, list):
        raise wrong(f"expected the name of an image or a mapping, not {describe(value)}")
    return value if isinstance(value, dict) else {"image": value}


class Credentials(LanguageModel):
    """What the registry of an image asks for."""

    TITLE = "credentials"
    PAGE = Page(
        name="credentials",
        where="`jobs.<id>.container.credentials`, `jobs.<id>.services.<name>.credentials`",
        frame="jobs:\n  test:\n    runs-on: docker-servers\n    container:\n      image: registry.example.com/ci:4\n"
        "      credentials:\n        {}\n    steps:\n      - run: make test\n",
    )

    username: Text = key(
        "The user of the registry.",
        "username: ci\npassword: ${{ secrets.REGISTRY_PASSWORD }}",
        expressions="job-env",
    )
    password: Text = key(
        "The user's password or token; write a secret.",
        "username: ci\npassword: ${{ secrets.REGISTRY_PASSWORD }}",
        expressions="job-env",
    )


class Container(LanguageModel):
    """A container of a job: the one in which its scripts run (`container`), or a service beside them (`services`)."""

    TITLE = "a container"
    PAGE = Page(
        name="container",
        where="`jobs.<id>.container`, `jobs.<id>.services.<name>`",
        frame="jobs:\n  test:\n    runs-on: docker-servers\n    services:\n      database:\n        {}\n"
        "    steps:\n      - run: make test\n",
    )

    image: Text = key(
        "The image. The server pulls it when the job starts, and uses the one that it has if the registry cannot be reached.",
        _IMAGE,
        expressions="job",
        pitfalls=("An expression that yields an empty text means: no such container.",),
    )
    env: VariableTexts = key(
        "Environment variables of the container.",
        f"{_IMAGE}\nenv: {{POSTGRES_PASSWORD: '${{{{ secrets.TEST_PASSWORD }}}}'}}",
        default={},
        expressions="job-env",
    )
    ports: TextsOrExpressions = key(
        "Ports of the container that processes on the server can reach: `PORT` (any free port of the server) or"
        " `SERVER-PORT:PORT`. `job.services.NAME.ports['PORT']` is the server's port.",
        f"{_IMAGE}\nports: [5432]",
        default=[],
        expressions="job",
        pitfalls=(
            "Only the server itself can connect, through 127.0.0.1, unless you write an address: `0.0.0.0:8080:80`.",
            "A job with `container` needs no ports: it reaches each service by its name.",
        ),
    )
    volumes: TextsOrExpressions = key(
        "Volumes and directories of the server: `SOURCE:TARGET`, with `:ro` for read-only.",
        f"{_IMAGE}\nvolumes: ['/srv/fixtures:/fixtures:ro']",
        default=[],
        expressions="job",
        pitfalls=("The job's directory is in its container anyway, under the same path as on the server.",),
    )
    options: FreeText = key(
        "More options of `docker create`.",
        f"{_IMAGE}\noptions: --health-cmd pg_isready --health-interval 2s --health-retries 30",
        default="",
        expressions="job",
        pitfalls=("`--network`, `--entrypoint` and `--name` are not possible.",),
    )
    credentials: Credentials | None = key(
        "The user and password for the image's registry.",
        "image: registry.example.com/db:2\ncredentials: {username: ci, password: '${{ secrets.REGISTRY_PASSWORD }}'}",
        default=None,
        without="none",
    )


#: A container, or the name of its image.
ContainerOrImage = Annotated[Container, BeforeValidator(container_spelling), short_for("image")]
