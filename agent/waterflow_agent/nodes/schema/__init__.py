"""The parameters and outputs of the built-in nodes, so that the daemon can check a file without running a node.

Rules of this package: it imports msgspec only, because agents load it at every start. There is one frozen record per node; its
fields are the keys of `with`, spelled with hyphens in the file, and a field without a default is required. The records are
the single source for validation, the JSON Schema and the reference: each field carries its description and an example, and
the docstring describes the node, its first line being the summary. The control flow nodes are the exception: their keys
are described in `waterflowd.dsl.models.control_flow`, which also checks the steps inside.

`runs_in` says who runs the node: the agent's runner as a process, the agent itself, or the daemon's engine (which occupies
no server while it waits).
"""

from waterflow_agent.nodes.schema.artifacts import ArtifactDownload, ArtifactUpload
from waterflow_agent.nodes.schema.built_in import (
    BUILT_IN,
    FROM_REPOSITORY,
    INTERNAL,
    OWN_NAME,
    SOURCE_BYTES_MAX,
    NodeSchema,
    find,
    path_of,
)
from waterflow_agent.nodes.schema.caches import CacheRestore, CacheSave
from waterflow_agent.nodes.schema.control_flow import (
    Approval,
    Condition,
    Fail,
    Log,
    Loop,
    Parallel,
    SetOutputs,
    Sleep,
    WorkflowRun,
)
from waterflow_agent.nodes.schema.files import FileDelete, FileRead, FileTemplate, FileWrite
from waterflow_agent.nodes.schema.http import HttpRequest, HttpWait, NotifyWebhook
from waterflow_agent.nodes.schema.job_containers import JobContainers
from waterflow_agent.nodes.schema.records import Duration, NonEmpty, Parameters, RunsIn, Statuses, about
from waterflow_agent.nodes.schema.scripts import SHELLS, Script, Shell
from waterflow_agent.nodes.schema.services import (
    ComposeDown,
    ComposeUp,
    DockerExec,
    DockerPull,
    DockerRun,
    DockerStop,
    SystemdUnit,
)
from waterflow_agent.nodes.schema.storage import FileList, FilePrune, FileTransfer, Storage

__all__ = [
    "Approval",
    "ArtifactDownload",
    "ArtifactUpload",
    "BUILT_IN",
    "CacheRestore",
    "CacheSave",
    "ComposeDown",
    "ComposeUp",
    "Condition",
    "DockerExec",
    "DockerPull",
    "DockerRun",
    "DockerStop",
    "Duration",
    "FROM_REPOSITORY",
    "Fail",
    "FileDelete",
    "FileList",
    "FilePrune",
    "FileRead",
    "FileTemplate",
    "FileTransfer",
    "FileWrite",
    "HttpRequest",
    "HttpWait",
    "INTERNAL",
    "JobContainers",
    "Log",
    "Loop",
    "NodeSchema",
    "NonEmpty",
    "NotifyWebhook",
    "OWN_NAME",
    "Parallel",
    "Parameters",
    "RunsIn",
    "SHELLS",
    "SOURCE_BYTES_MAX",
    "Script",
    "SetOutputs",
    "Shell",
    "Sleep",
    "Statuses",
    "Storage",
    "SystemdUnit",
    "WorkflowRun",
    "about",
    "find",
    "path_of",
]
