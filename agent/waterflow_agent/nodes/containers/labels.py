"""The labels of containers and networks that belong to a job."""

from __future__ import annotations

#: The path of the job's directory.
JOB = "io.waterflow.job"
#: The path of the job's directory for temporary files.
TEMP = "io.waterflow.temp"
#: The path of the directory that exists until this start's containers are removed (`execution/job_containers.py`).
START = "io.waterflow.start"
#: `container`, or the name of a service with the prefix `service/`.
ROLE = "io.waterflow.role"
#: The role of the container in which scripts run.
CONTAINER = "container"


def service(name: str) -> str:
    """Return the role of a service."""
    return f"service/{name}"
