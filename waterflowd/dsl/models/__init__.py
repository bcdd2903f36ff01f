"""The models of the workflow language: one model per mapping, one field per key.

Rules of this package: the models are the single source for validation, the JSON Schema and the reference. Alternative
spellings (a text, a list, a mapping) are normalized before validation. What a model cannot check alone (needs, ids,
expressions, a node's parameters) is checked in `building`.
"""

from waterflowd.dsl.models.checkout import Checkout
from waterflowd.dsl.models.composite_step import CompositeRuns, CompositeStep
from waterflowd.dsl.models.containers import Container, Credentials
from waterflowd.dsl.models.control_flow import (
    CONTROL_FLOW,
    ApprovalParameters,
    ConditionParameters,
    LoopParameters,
    ParallelParameters,
)
from waterflowd.dsl.models.defaults import Defaults, RunDefaults
from waterflowd.dsl.models.inputs import Input
from waterflowd.dsl.models.job import Job
from waterflowd.dsl.models.model import LanguageModel, Page, keys, model_at, named
from waterflowd.dsl.models.placement import Concurrency, DeploymentEnvironment, RunsOn, Strategy
from waterflowd.dsl.models.report import Report
from waterflowd.dsl.models.schedule import Schedule
from waterflowd.dsl.models.step import Limits, Retry, Step, Stop
from waterflowd.dsl.models.triggers import (
    CallOutput,
    CallSecret,
    Push,
    Triggers,
    Webhook,
    WorkflowCall,
    WorkflowDispatch,
    WorkflowRun,
)
from waterflowd.dsl.models.workflow import Workflow

__all__ = [
    "CONTROL_FLOW",
    "ApprovalParameters",
    "CallOutput",
    "CallSecret",
    "Checkout",
    "CompositeRuns",
    "CompositeStep",
    "Concurrency",
    "ConditionParameters",
    "Container",
    "Credentials",
    "Defaults",
    "DeploymentEnvironment",
    "Input",
    "Job",
    "LanguageModel",
    "Limits",
    "LoopParameters",
    "Page",
    "ParallelParameters",
    "Push",
    "Report",
    "Retry",
    "RunDefaults",
    "RunsOn",
    "Schedule",
    "Step",
    "Stop",
    "Strategy",
    "Triggers",
    "Webhook",
    "Workflow",
    "WorkflowCall",
    "WorkflowDispatch",
    "WorkflowRun",
    "keys",
    "model_at",
    "named",
]
