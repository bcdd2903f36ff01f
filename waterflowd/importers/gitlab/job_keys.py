"""Keys of a job of GitLab that are translated by themselves: each adds its counterpart to the job, or a decision."""

from __future__ import annotations

import re
from collections.abc import Callable

from waterflow_agent import durations
from waterflowd.importers import expressions, writing
from waterflowd.importers.generated import WHOLE_PATHS, written_minutes
from waterflowd.importers.gitlab import variables
from waterflowd.importers.gitlab.job_drafts import JobDraft, own_variables
from waterflowd.importers.origin import slug
from waterflowd.importers.source_yaml import texts_of
from waterflowd.model.plan import Json

#: Instances of a job on GitLab.
_PARALLEL_MAX = 200


def _variables(draft: JobDraft, value: Json) -> None:
    for name, text in variables.plain_values(value if isinstance(value, dict) else {}).items():
        draft.env.set(name, draft.expand(text))


def _image(draft: JobDraft, value: Json) -> None:
    name = value.get("name") if isinstance(value, dict) else value
    container = writing.Block()
    container.set("image", draft.expand(name))
    draft.block.set("container", container)
    if isinstance(value, dict) and set(value) - {"name"}:
        draft.note("image", "of image only the name is imported")


def _services(draft: JobDraft, value: Json) -> None:
    services = writing.Block()
    for item in value if isinstance(value, list) else []:
        name = str(item.get("name") if isinstance(item, dict) else item)
        alias = item.get("alias") if isinstance(item, dict) else None
        service: dict[str, Json] = {"image": draft.expand(name)}
        environment = _environment_of_service(draft, item.get("variables") if isinstance(item, dict) else None)
        if environment:
            service["env"] = environment
        services.set(slug(str(alias or name.split(":")[0].replace("/", "-"))), service)
        if isinstance(item, dict) and set(item) - {"name", "alias", "variables"}:
            draft.note("services", "of services only name, alias and variables are imported")
        if name.startswith("docker:") and "dind" in name:
            draft.note(
                "services",
                "a service cannot run Docker in Docker: run docker in a job without a container, on a server with an engine",
            )
    if services.entries:
        draft.block.set("services", services)


def _environment_of_service(draft: JobDraft, own: Json) -> dict[str, Json]:
    """Return the variables of the file, of the job and of the service itself: GitLab gives a service all of them."""
    found = {
        **draft.context.variables,
        **own_variables(draft.job),
        **variables.plain_values(own if isinstance(own, dict) else {}),
    }
    return {name: draft.expand(text) for name, text in found.items()}


def _artifacts(draft: JobDraft, value: Json) -> None:
    if not isinstance(value, dict):
        return
    paths = [draft.expand(path) for path in texts_of(value.get("paths"))]
    if paths:
        excluded = [f"!{draft.expand(path)}" for path in texts_of(value.get("exclude"))]
        parameters: dict[str, Json] = {
            "name": draft.context.artifact_of(draft.job.name, "${{ strategy.job-index }}"),
            "path": "\n".join([*paths, *excluded]),
            **WHOLE_PATHS,
        }
        seconds = seconds_of(str(value.get("expire_in", "")))
        if seconds is not None:
            parameters["retention-days"] = max(1, round(seconds / 86_400))
        step = writing.Block()
        if value.get("when") in ("always", "on_failure"):
            step.set("if", "always()" if value["when"] == "always" else "failure()")
        step.set("uses", "artifact/upload")
        step.set("with", parameters)
        draft.last_steps.append((step, ()))
    left = set(value) - {"paths", "exclude", "expire_in", "when", "name"}
    if left:
        draft.note("artifacts", f"{', '.join(sorted(left))} of artifacts: no counterpart")
    if "name" in value:
        draft.change("artifacts", f"the artifact is called {draft.context.ids[draft.job.name]}, not {value['name']}")


#: What a job does with a cache, by `policy`: the node, and whether it is the last step.
_CACHE_POLICIES = {"pull-push": "actions/cache@v4", "pull": "cache/restore", "push": "cache/save"}


def _cache(draft: JobDraft, value: Json) -> None:
    caches = [cache for cache in (value if isinstance(value, list) else [value]) if isinstance(cache, dict)]
    for cache in caches:
        paths = [draft.expand(path) for path in texts_of(cache.get("paths"))]
        if not paths:
            continue
        uses = _CACHE_POLICIES.get(str(cache.get("policy", "pull-push")), "actions/cache@v4")
        key, restore_keys = _cache_keys(draft, cache)
        parameters: dict[str, Json] = {"key": key, "path": "\n".join(paths)}
        if restore_keys and uses != "cache/save":
            parameters["restore-keys"] = "\n".join(restore_keys)
        step = writing.Block()
        step.set("uses", uses)
        step.set("with", parameters)
        if uses == "cache/save":
            draft.last_steps.append((step, ()))
        else:
            draft.steps.add(step)
    left = set().union(*caches) - {"key", "paths", "policy", "fallback_keys"}
    if left:
        draft.note("cache", f"{', '.join(sorted(left))} of cache: no counterpart")


def _cache_keys(draft: JobDraft, cache: dict[str, Json]) -> tuple[str, list[str]]:
    """The key, and the restore keys.

    A cache of GitLab is replaced by each job, and one here never changes. So each run saves its own, and the newest is
    restored. A key made of files changes with them, and needs no replacement.
    """
    key, fallback = cache.get("key", "default"), [draft.expand(text) for text in texts_of(cache.get("fallback_keys"))]
    if isinstance(key, dict):
        files = ", ".join(expressions.quoted(path) for path in texts_of(key.get("files")))
        if files:
            return f"{draft.expand(key.get('prefix', 'files'))}-${{{{ hashFiles({files}) }}}}", fallback
        key = key.get("prefix", "default")
    text = draft.expand(key)
    return f"{text}-${{{{ run.id }}}}", [f"{text}-", *fallback]


def _deployment(draft: JobDraft, value: Json) -> None:
    name = value.get("name") if isinstance(value, dict) else value
    if name:
        draft.block.set("environment", draft.expand(name))
    if isinstance(value, dict) and set(value) - {"name"}:
        draft.note("environment", f"{', '.join(sorted(set(value) - {'name'}))} of environment: no counterpart")


def _parallel(draft: JobDraft, value: Json) -> None:
    if isinstance(value, int):
        count = min(value, _PARALLEL_MAX)
        if count < value:
            draft.note("parallel", f"a job has at most {_PARALLEL_MAX} instances, as on GitLab")
        draft.block.set("strategy", {"fail-fast": False, "matrix": {"index": list(range(1, count + 1))}})
        draft.env.set("CI_NODE_INDEX", "${{ matrix.index }}")
        draft.env.set("CI_NODE_TOTAL", str(count))
        return
    rows = value.get("matrix") if isinstance(value, dict) else None
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    lists = [{name: texts_of(item) for name, item in row.items()} for row in rows]
    if len(lists) == 1:
        matrix: Json = dict(lists[0])
    else:
        matrix = {"include": [pair for row in lists for pair in _combinations(row)]}
    draft.block.set("strategy", {"fail-fast": False, "matrix": matrix})
    for name in dict.fromkeys(name for row in lists for name in row):
        draft.env.set(name, f"${{{{ matrix.{name} }}}}")


def _combinations(row: dict[str, list[str]]) -> list[Json]:
    found: list[dict[str, Json]] = [{}]
    for name, values in row.items():
        found = [{**pair, name: value} for pair in found for value in values][:256]
    return list(found)


def _retry(draft: JobDraft, value: Json) -> None:
    count = value.get("max") if isinstance(value, dict) else value
    draft.block.set("retry", {"max-attempts": (count if isinstance(count, int) else 0) + 1})
    if isinstance(value, dict) and set(value) - {"max"}:
        draft.note("retry", "when of retry has no counterpart; see on of retry")


def _timeout(draft: JobDraft, value: Json) -> None:
    seconds = seconds_of(str(value))
    if seconds is None:
        draft.note("timeout", f"timeout {value} is not a duration")
    else:
        minutes = seconds / 60
        draft.block.set("timeout-minutes", written_minutes(minutes))


def _allow_failure(draft: JobDraft, value: Json) -> None:
    if value is True or isinstance(value, dict):
        draft.block.set("continue-on-error", True)
    if isinstance(value, dict):
        draft.note(
            "allow_failure",
            f"allow_failure for some exit codes only: every failure is allowed now: {writing.flow_text(value)}",
        )


def _resource_group(draft: JobDraft, value: Json) -> None:
    draft.block.set("concurrency", {"group": draft.expand(value)})


def _tags(draft: JobDraft, value: Json) -> None:
    draft.change("tags", f"runner tags {', '.join(texts_of(value))}: now the group {draft.context.group}")


def _dependencies(draft: JobDraft, value: Json) -> None:
    draft.change("dependencies", f"the artifacts of {', '.join(texts_of(value)) or 'no job'} are fetched")


def _interruptible(draft: JobDraft, value: Json) -> None:
    if value is True and not draft.context.is_interruptible:
        draft.note(
            "interruptible",
            "on GitLab a newer push may cancel this job; here it can only cancel the whole run, with concurrency",
        )


def _trigger(draft: JobDraft, value: Json) -> None:
    sentence = draft.decide(
        "trigger", f"trigger starts another pipeline: use workflow/run, or a job with uses: {writing.flow_text(value)}"
    )
    draft.steps.add({"uses": "fail", "with": {"message": sentence.partition(": ")[2].replace("${{", "$ {{")}}, sentence)


#: Writes what a key of a job becomes. All other keys are decisions, or have a part in others.
HANDLERS: dict[str, Callable[[JobDraft, Json], None]] = {
    "variables": _variables,
    "image": _image,
    "services": _services,
    "artifacts": _artifacts,
    "cache": _cache,
    "environment": _deployment,
    "parallel": _parallel,
    "retry": _retry,
    "timeout": _timeout,
    "allow_failure": _allow_failure,
    "resource_group": _resource_group,
    "tags": _tags,
    "dependencies": _dependencies,
    "interruptible": _interruptible,
    "trigger": _trigger,
}

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "mo": 2_592_000, "y": 31_536_000}


def seconds_of(text: str) -> int | None:
    """Return a duration as GitLab writes it (`1h 30m`, `2 days`, `3 mins 4 sec`, a number of seconds) in seconds."""
    try:
        return int(durations.parse(text) // 1000)
    except ValueError:
        pass
    total = 0
    rest = re.sub(r"\band\b|,", " ", text.lower()).strip()
    if not rest:
        return None
    while rest:
        found = re.match(r"(\d{1,12})\s*(mo|[a-z])?[a-z]*\s*", rest)
        if not found or (found[2] or "s") not in _UNITS:
            return None
        total += int(found[1]) * _UNITS[found[2] or "s"]
        rest = rest[found.end() :]
    return total
