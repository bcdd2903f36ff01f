"""Modules of Ansible as steps: a node where one does the same, else a script.

Each function takes the module's arguments as texts with expressions and returns the keys of the step, or raises
Untranslatable. What a function takes out of the arguments is translated; whatever is left is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from waterflowd.importers.ansible.jinja import Untranslatable
from waterflowd.model.plan import Json

Arguments = dict[str, Json]
Step = dict[str, Json]


def _text(arguments: Arguments, *names: str) -> str | None:
    for name in names:
        if name in arguments:
            value = arguments.pop(name)
            return ("true" if value else "false") if isinstance(value, bool) else None if value is None else str(value)
    return None


def _required(arguments: Arguments, *names: str) -> str:
    value = _text(arguments, *names)
    if value is None:
        raise Untranslatable(f"{names[0]} is missing")
    return value


def is_true(value: Json) -> bool:
    """Whether a value means yes; Ansible takes text for it, too."""
    return value is True or str(value).lower() in ("yes", "true", "on", "1")


def word(text: str) -> str:
    """Return a word of a script; one with expressions is in double quotes, which keep it together."""
    if text.startswith("${{ join("):
        return text
    if "${{" in text:
        return '"' + text.replace('"', '\\"') + '"'
    return shlex.quote(text)


def _mode_and_owner(arguments: Arguments) -> Step:
    found: Step = {}
    if mode := _text(arguments, "mode"):
        if not re.fullmatch(r"0?[0-7]{3,4}", mode):
            raise Untranslatable(f"the mode {mode}")
        found["mode"] = mode.zfill(4)
    owner, group = _text(arguments, "owner"), _text(arguments, "group")
    if owner or group:
        found["owner"] = f"{owner or ''}:{group}" if group else owner
    return found


def _command(arguments: Arguments) -> Step:
    argv = arguments.pop("argv", None)
    if isinstance(argv, list):
        arguments["_raw_params"] = " ".join(word(str(each)) for each in argv)
    command = _text(arguments, "_raw_params", "cmd")
    if command is None:
        raise Untranslatable("the command is missing")
    creates, removes = _text(arguments, "creates"), _text(arguments, "removes")
    directory, program = _text(arguments, "chdir"), _text(arguments, "executable")
    # A directory outside of the job's cannot be a working directory, and Ansible's are on the server. The paths of the
    # other two begin there.
    guard = [f"cd {word(directory)} || exit"] if directory else []
    guard += [f"[ -e {word(creates)} ] && exit 0"] if creates else []
    guard += [f"[ -e {word(removes)} ] || exit 0"] if removes else []
    step: Step = {"run": "\n".join([*guard, command.strip()]) + ("\n" if guard or "\n" in command.rstrip("\n") else "")}
    if program:
        step["shell"] = f"{program} {{0}}"
    return step


def _script(arguments: Arguments) -> Step:
    words = _required(arguments, "_raw_params", "cmd").split()
    if not words:
        raise Untranslatable("the script is missing")
    return {"run": " ".join([f"./{_source(words[0], 'files')}", *words[1:]])}


def _source(path: str, folder: str) -> str:
    return path if "/" in path else f"{folder}/{path}"


def _copy(arguments: Arguments) -> Step:
    destination = _required(arguments, "dest")
    extra = _mode_and_owner(arguments)
    content = _text(arguments, "content")
    if is_true(_text(arguments, "backup")):
        extra["backup"] = True
    if content is not None:
        return {"uses": "file/write", "with": {"path": destination, "content": content, **extra}}
    source = _required(arguments, "src")
    remote = is_true(_text(arguments, "remote_src"))
    if "backup" in extra:
        raise Untranslatable("backup of a copied file")
    where = source if remote or source.startswith("/") else f"repo:{_source(source, 'files')}"
    if not remote and source.startswith("/"):
        raise Untranslatable(f"{source} is a file of the machine that Ansible runs on: put it into the repository")
    return {"uses": "file/transfer", "with": {"source": where, "destination": destination, **extra}}


def _file(arguments: Arguments) -> Step:
    path = _required(arguments, "path", "dest", "name")
    state = _text(arguments, "state") or "file"
    owner = _mode_and_owner(arguments)
    recursive = is_true(_text(arguments, "recurse"))
    if state == "absent":
        return {"uses": "file/delete", "with": {"path": path, "recursive": True}}
    if state == "link":
        target = _required(arguments, "src")
        return {"run": f"ln -sfn {word(target)} {word(path)}"}
    first = {"directory": f"mkdir -p {word(path)}", "touch": f"touch {word(path)}", "file": f"[ -e {word(path)} ]"}.get(
        state
    )
    if first is None:
        raise Untranslatable(f"state {state}")
    flag = "-R " if recursive else ""
    lines = [first]
    lines += [f"chmod {flag}{owner['mode']} {word(path)}"] if "mode" in owner else []
    lines += [f"chown {flag}{word(str(owner['owner']))} {word(path)}"] if "owner" in owner else []
    return {"run": "\n".join(lines) + ("\n" if len(lines) > 1 else "")}


def _service(arguments: Arguments) -> Step:
    unit: Step = {"name": _text(arguments, "name") or ""}
    state, enabled = _text(arguments, "state"), _text(arguments, "enabled")
    reload = is_true(_text(arguments, "daemon_reload", "daemon-reload"))
    if not unit["name"]:
        return {"run": "systemctl daemon-reload"} if reload else _missing("name")
    if state:
        unit["state"] = state
    if enabled is not None:
        unit["enabled"] = is_true(enabled)
    if reload:
        unit["daemon-reload"] = True
    return {"uses": "systemd/unit", "with": unit}


def _missing(name: str) -> Step:
    raise Untranslatable(f"{name} is missing")


def _packages(arguments: Arguments) -> list[str]:
    value = next((arguments.pop(name) for name in ("name", "pkg", "package") if name in arguments), None)
    if isinstance(value, list):
        return [str(each) for each in value]
    text = str(value or "")
    if found := re.fullmatch(r"\$\{\{ (.*?) \}\}", text):
        # A variable may hold a list; without quotes, its names become words.
        return [f"${{{{ join({found[1]}, ' ') }}}}"]
    return [each.strip() for each in text.split(",") if each.strip()]


def _apt(arguments: Arguments) -> Step:
    names, state = _packages(arguments), _text(arguments, "state") or "present"
    update = is_true(_text(arguments, "update_cache", "update-cache"))
    upgrade = _text(arguments, "upgrade")
    _text(arguments, "cache_valid_time")
    recommends = _text(arguments, "install_recommends")
    lines = ["apt-get update"] if update else []
    if upgrade and upgrade not in ("no", "false"):
        lines.append("apt-get -y dist-upgrade" if upgrade in ("dist", "full") else "apt-get -y upgrade")
    if names:
        verb = {"present": "install", "installed": "install", "latest": "install", "absent": "remove"}.get(state)
        if verb is None:
            raise Untranslatable(f"state {state}")
        flag = " --no-install-recommends" if recommends is not None and not is_true(recommends) else ""
        lines.append(f"apt-get -y {verb}{flag} {' '.join(word(name) for name in names)}")
    if not lines:
        raise Untranslatable("it names no packages")
    return {"run": "\n".join(lines) + ("\n" if len(lines) > 1 else ""), "env": {"DEBIAN_FRONTEND": "noninteractive"}}


def _dnf(arguments: Arguments) -> Step:
    names, state = _packages(arguments), _text(arguments, "state") or "present"
    verbs = {"present": "install", "installed": "install", "latest": "install", "absent": "remove", "removed": "remove"}
    if state not in verbs or not names:
        raise Untranslatable(f"state {state}" if names else "it names no packages")
    return {"run": f"dnf -y {verbs[state]} {' '.join(word(name) for name in names)}"}


def _debug(arguments: Arguments) -> Step:
    _text(arguments, "verbosity")
    if "var" in arguments:
        raise Untranslatable("var: write the expression into msg")
    return {"uses": "log", "with": {"message": _text(arguments, "msg") or "Hello world!"}}


def _fail(arguments: Arguments) -> Step:
    return {"uses": "fail", "with": {"message": _text(arguments, "msg") or "failed"}}


def _pause(arguments: Arguments) -> Step:
    minutes, seconds, prompt = _text(arguments, "minutes"), _text(arguments, "seconds"), _text(arguments, "prompt")
    if minutes or seconds:
        return {"uses": "sleep", "with": {"duration": f"{minutes}m" if minutes else f"{seconds}s"}}
    return {"uses": "approval", "with": {"message": prompt or "Continue?"}}


def _uri(arguments: Arguments) -> Step:
    parameters: Step = {"url": _required(arguments, "url")}
    if method := _text(arguments, "method"):
        parameters["method"] = method
    body, form = arguments.pop("body", None), _text(arguments, "body_format")
    if body is not None:
        parameters["json" if form == "json" else "body"] = body if form == "json" else str(body)
    if headers := arguments.pop("headers", None):
        parameters["headers"] = headers
    if status := arguments.pop("status_code", None):
        parameters["expect-status"] = ", ".join(
            str(each) for each in (status if isinstance(status, list) else [status])
        )
    if (verify := _text(arguments, "validate_certs")) is not None and not is_true(verify):
        parameters["verify"] = False
    if timeout := _text(arguments, "timeout"):
        parameters["timeout"] = f"{timeout}s"
    _text(arguments, "return_content")
    return {"uses": "http/request", "with": parameters}


def _get_url(arguments: Arguments) -> Step:
    parameters: Step = {"source": _required(arguments, "url"), "destination": _required(arguments, "dest")}
    if checksum := _text(arguments, "checksum"):
        parameters["checksum"] = checksum
    _text(arguments, "force")
    return {"uses": "file/transfer", "with": {**parameters, **_mode_and_owner(arguments)}}


def _wait_for(arguments: Arguments) -> Step:
    port, host = _required(arguments, "port"), _text(arguments, "host") or "127.0.0.1"
    timeout = _text(arguments, "timeout") or "300"
    state = _text(arguments, "state") or "started"
    if state not in ("started", "present"):
        raise Untranslatable(f"state {state}")
    probe = f"timeout {timeout} bash -c 'until (exec 3<> /dev/tcp/{host}/{port}) 2>/dev/null; do sleep 1; done'"
    if "${{" in probe or "'" in host:
        raise Untranslatable("variables in host or port")
    return {"run": probe}


#: Modules by their short names.
MODULES: dict[str, Callable[[Arguments], Step]] = {
    "command": _command,
    "shell": _command,
    "raw": _command,
    "script": _script,
    "copy": _copy,
    "file": _file,
    "service": _service,
    "systemd": _service,
    "systemd_service": _service,
    "apt": _apt,
    "dnf": _dnf,
    "yum": _dnf,
    "debug": _debug,
    "fail": _fail,
    "pause": _pause,
    "uri": _uri,
    "get_url": _get_url,
    "wait_for": _wait_for,
}
#: Modules whose steps have the output `changed`.
WITH_CHANGED = frozenset(("systemd/unit", "file/write", "file/template", "file/delete"))
#: Modules that take their arguments as one text.
FREE_FORM = frozenset(("command", "shell", "raw", "script"))


def short_name(name: str) -> str:
    """Return the name of a module without its collection, for those of Ansible itself."""
    for prefix in ("ansible.builtin.", "ansible.legacy.", "ansible.posix."):
        name = name.removeprefix(prefix)
    return name
