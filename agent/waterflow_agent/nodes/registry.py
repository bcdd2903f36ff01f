"""The classes of the built-in nodes, each imported when a step uses it."""

from __future__ import annotations

import importlib
from typing import Any

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Node

#: Name of the node: module and class.
_CLASSES = {
    "http/request": "waterflow_agent.nodes.http:HttpRequestNode",
    "http/wait": "waterflow_agent.nodes.http:HttpWaitNode",
    "notify/webhook": "waterflow_agent.nodes.webhook:WebhookNode",
    "file/write": "waterflow_agent.nodes.files:FileWriteNode",
    "file/read": "waterflow_agent.nodes.files:FileReadNode",
    "file/template": "waterflow_agent.nodes.files:FileTemplateNode",
    "file/delete": "waterflow_agent.nodes.files:FileDeleteNode",
    "file/transfer": "waterflow_agent.nodes.transfer.node:FileTransferNode",
    "artifact/upload": "waterflow_agent.nodes.artifacts.upload:ArtifactUploadNode",
    "artifact/download": "waterflow_agent.nodes.artifacts.download:ArtifactDownloadNode",
    "cache/restore": "waterflow_agent.nodes.caches.restore:CacheRestoreNode",
    "cache/save": "waterflow_agent.nodes.caches.save:CacheSaveNode",
    "file/list": "waterflow_agent.nodes.transfer.stored_files:FileListNode",
    "file/prune": "waterflow_agent.nodes.transfer.stored_files:FilePruneNode",
    "systemd/unit": "waterflow_agent.nodes.systemd:SystemdUnitNode",
    "docker/exec": "waterflow_agent.nodes.docker:DockerExecNode",
    "docker/pull": "waterflow_agent.nodes.docker:DockerPullNode",
    "docker/run": "waterflow_agent.nodes.docker:DockerRunNode",
    "docker/stop": "waterflow_agent.nodes.docker:DockerStopNode",
    "docker/compose-up": "waterflow_agent.nodes.compose:ComposeUpNode",
    "job/containers": "waterflow_agent.nodes.containers.start:JobContainersNode",
    "docker/compose-down": "waterflow_agent.nodes.compose:ComposeDownNode",
}


def load(name: str) -> type[Node[Any]]:
    """Return the class of a node. Raises `Rejected` WF708 if a package that it needs is not installed."""
    found = schema.find(name)
    module, _, attribute = _CLASSES[found.name if found is not None else name].partition(":")
    try:
        loaded: type[Node[Any]] = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        text = (
            f'node "{name}" needs the package {error.name}; next: pip install "waterflow-agent[nodes]" on this server'
        )
        raise Rejected("WF708", text) from error
    return loaded
