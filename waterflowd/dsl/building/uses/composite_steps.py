"""Composite steps: `uses: ./steps/deploy` runs the steps of `steps/deploy/step.yml`.

Rules of this file: the steps of a composite step see their inputs and nothing else of the calling workflow, so each file is
compiled once. They run on the server and in the working directory of the step that uses them, with its environment. GitHub's
`action.yml` with `runs.using: composite` is accepted as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building import inputs
from waterflowd.dsl.building.block_scope import DEPTH_MAX, BlockScope
from waterflowd.dsl.building.compilation import LOCAL, Compilation, SourceFile, local_path
from waterflowd.dsl.building.contexts import for_composite, for_composite_defaults
from waterflowd.dsl.building.embedded_expressions import embedded
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.building.inputs import check_arguments
from waterflowd.dsl.models import github_names
from waterflowd.dsl.models.composite_step import CompositeStep
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.models.validation import validate
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.values import has_expression
from waterflowd.model.plan import InputSpec, Json, StepPlan

#: File names of a composite step in its folder, ours first.
FILE_NAMES = ("step.yml", "step.yaml", "action.yml", "action.yaml")
_FILE_ENDINGS = (".yml", ".yaml")
#: What scripts have in addition to the variables of all steps.
_VARIABLES = frozenset((github_names.ACTION_PATH_VARIABLE,))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeUse:
    """A use of a composite step."""

    inputs: tuple[InputSpec, ...]
    arguments: dict[str, Json]
    outputs: dict[str, Json]
    steps: tuple[StepPlan, ...]
    #: The folder of its file, from the root of the repository; `.` for the root itself.
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _CompiledFile:
    """A composite step's file, compiled."""

    specs: tuple[InputSpec, ...]
    #: Defaults with expressions, which are evaluated where the step is used, by input.
    defaults: dict[str, Json]
    outputs: dict[str, Json]
    steps: tuple[StepPlan, ...]
    #: Nesting of blocks, including its own.
    height: int
    count: int


#: Builds the steps at a path of a file.
BuildSteps = Callable[[SourceFile, ExpressionChecker, Path, list[models.Step], BlockScope], tuple[StepPlan, ...]]


class CompositeSteps:
    """The composite steps of one compilation; `build_steps` builds the steps of their files."""

    def __init__(self, compilation: Compilation, build_steps: BuildSteps) -> None:
        self._compilation = compilation
        self._build_steps = build_steps
        self._built: dict[str, _CompiledFile | None] = {}
        self._open: list[str] = []

    def parts(
        self, source: SourceFile, path: Path, uses: str, arguments: Mapping[str, Json], depth: int
    ) -> CompositeUse | None:
        """The composite step that the step at `path` uses; None after an error, which is reported."""
        at: Path = (*path, "uses")
        file = self._file(source, at, uses)
        if file is None:
            return None
        if file in self._open:
            cycle = " -> ".join([*self._open[self._open.index(file) :], file])
            source.at_value(at, codes.WRONG_CALL, f"composite steps use each other in a cycle: {cycle}")
            return None
        if len(self._open) >= DEPTH_MAX:
            text = f"composite steps are nested more than {DEPTH_MAX} levels deep"
            source.at_value(at, codes.BOUND, text, "copy the steps of one of them into the file that uses it")
            return None
        is_new = file not in self._built
        if is_new:
            self._built[file] = self._compilation.build_file(file, self._open, self._compiled)
        built = self._built[file]
        if built is None:
            return None
        if not is_new:
            self._compilation.count(source, path, steps=built.count, used_again=file)
        if depth + built.height - 1 > DEPTH_MAX:
            text = f"with this composite step, steps are nested more than {DEPTH_MAX - 1} levels deep"
            source.at_value(at, codes.BOUND, text, "move some of the steps into a separate job")
        checked = check_arguments(source, (*path, "with"), built.specs, arguments, f"the composite step {quote(uses)}")
        arguments = {**built.defaults, **checked}
        folder = file.rpartition("/")[0] or "."
        return CompositeUse(
            inputs=built.specs, arguments=arguments, outputs=built.outputs, steps=built.steps, folder=folder
        )

    def _file(self, source: SourceFile, at: Path, uses: str) -> str | None:
        folder = "" if uses in (".", *LOCAL) else local_path(uses)
        if folder is None:
            text = f"{quote(uses)} is not a path inside the repository"
            source.at_value(at, codes.WRONG_CALL, text, "write ./ and the path from the root of the repository")
            return None
        if self._compilation.read is None:
            text = f"cannot find the composite step {quote(uses)}: this file was compiled without its repository"
            source.at_value(
                at, codes.WRONG_CALL, text, "push it to a watched repository, or copy the steps into this file"
            )
            return None
        names = [folder] if folder.endswith(_FILE_ENDINGS) else [f"{folder}/{name}".lstrip("/") for name in FILE_NAMES]
        for name in names:
            if self._compilation.find(name) is not None:
                return name
        text = f"the composite step {quote(uses)} does not exist in this revision"
        source.at_value(at, codes.WRONG_CALL, text, f"expected the file {names[0]}")
        return None

    def _compiled(self, source: SourceFile) -> _CompiledFile | None:
        model = validate(source.document, source.report, CompositeStep)
        if model is None:
            return None
        base: Path = ("steps",)
        rows = model.steps
        if model.runs is not None:
            if rows is not None:
                text = "a composite step has either steps or runs (as GitHub's actions have), not both"
                source.at_key(("runs",), codes.EXCLUSIVE_KEYS, text, "remove one of them")
            base, rows = ("runs", "steps"), model.runs.steps
        if rows is None:
            node, _ = source.document.find(())
            if not source.report.has_within(node.start, node.end):
                text = "a composite step requires the key steps"
                source.report.add(node.start, codes.MISSING_KEY, text, "add steps, a list with at least one entry")
            return None
        expressions = ExpressionChecker(source, self._compilation.hashed)
        defaults = {name: each.default for name, each in model.inputs.items() if has_expression(each.default)}
        for name, text in defaults.items():
            expressions.value(("inputs", name, "default"), text, for_composite_defaults())
        plain = {"default": None, "required": False}
        declared = {
            name: each.model_copy(update=plain) if name in defaults else each for name, each in model.inputs.items()
        }
        specs = inputs.specs(declared, ("inputs",), source.document, source.report)
        available = for_composite(expr.Names(spec.name for spec in specs))
        steps = self._build_steps(
            source, expressions, base, rows, BlockScope(available=available, variables=_VARIABLES)
        )
        ids = Ids("output", source.report)
        after = available.within({"steps": expr.Names(step.id for step in rows if step.id)})
        for name, output in model.outputs.items():
            ids.take(name, source.document.key_start(("outputs", name)))
            expressions.text(("outputs", name, "value"), output.value, after)
        return _CompiledFile(
            specs=specs,
            defaults=defaults,
            outputs={name: output.value for name, output in model.outputs.items()},
            steps=steps,
            height=_height(steps),
            count=_count(steps),
        )


def reads_own_files(steps: Iterable[StepPlan]) -> bool:
    """Whether the steps of a composite step, or of one that they use, refer to the directory of their file."""
    return any(_reads_own_files(step) for step in steps)


def _reads_own_files(step: StepPlan) -> bool:
    if github_names.ACTION_PATH_VARIABLE in str(step.params.get("run", "")):
        return True
    values = [step.params, dict(step.env), step.working_directory]
    field = ("github", github_names.ACTION_PATH_FIELD)
    references = (path for node in embedded(values) for path, _ in expr.references(node))
    return any(tuple(name.lower() for name in path[:2]) == field for path in references) or any(
        reads_own_files(block.steps) for block in step.blocks
    )


def _height(steps: tuple[StepPlan, ...]) -> int:
    return 1 + max((_height(block.steps) for step in steps for block in step.blocks), default=0)


def _count(steps: tuple[StepPlan, ...]) -> int:
    return len(steps) + sum(_count(block.steps) for step in steps for block in step.blocks)
