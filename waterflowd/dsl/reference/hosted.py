"""Texts: the nodes that have a process of their own."""

from __future__ import annotations

from waterflowd.dsl.reference.entries import Key, Section

_VERIFY = "Whether the server's certificate is checked; a text is the file of an authority's certificate."
_DURATION = "A duration such as `30s`, or a number of seconds."


def _section(node: str, what: str, required: str, keys: dict[str, tuple[str, str]]) -> Section:
    """A node; `required` are the lines that every example needs, unless it gives the key itself."""
    frame = (
        f"jobs:\n  deploy:\n    runs-on: web-servers\n    steps:\n      - uses: {node}\n        with:\n          {{}}\n"
    )
    found: dict[str, Key] = {}
    for name, (text, example) in keys.items():
        given = {line.split(":")[0] for line in example.splitlines()}
        lines = [line for line in required.splitlines() if line.split(":")[0] not in given]
        found[name] = Key(text, "\n".join([*lines, example]), place="step-secrets")
    return Section(f"node-{node.replace('/', '-')}", f"`with` of `uses: {node}`", what, frame, found)


_FILE_KEYS = {
    "path": ("The file; relative to the step's working directory.", "path: /etc/app/app.conf"),
    "mode": (
        "Its mode, in quotes. Default: that of the file that is there, else `0644`. A mode that hides the file from others"
        " keeps the difference out of the log too.",
        'mode: "0640"',
    ),
    "owner": ("`user`, `user:group` or `:group`, by name or number.", "owner: root:www-data"),
    "backup": ("Keeps the old file beside it, with the time in its name.", "backup: true"),
    "create-directories": ("Makes the directories above the file.", "create-directories: true"),
    "follow": ("Writes the file that a link leads to; without it a link is refused.", "follow: true"),
}
_COMPOSE_KEYS = {
    "file": ("The compose file; relative to the step's working directory.", "file: compose.yml"),
    "project": ("The project's name.", "project: shop"),
    "env": ("Variables for the file.", "env: {TAG: v2}"),
    "profiles": ("Profiles that are switched on.", "profiles: [debug]"),
    "remove-orphans": ("Removes containers of services that the file does not have any more.", "remove-orphans: true"),
}

#: What is said about each of these nodes, by its name.
HOSTED: dict[str, Section] = {
    "http/request": _section(
        "http/request",
        "Sends one HTTP request. A status that is not expected fails the step with the first kilobyte of the body; redirects"
        " are answers like others. The query and a password in the address are in no log.",
        "url: https://example.org/",
        {
            "url": ("The address.", "url: https://example.org/api"),
            "method": ("The method.", "method: POST"),
            "headers": ("Headers.", "headers: {Accept: application/json}"),
            "query": ("Parameters that are added to the address.", "query: {q: '1'}"),
            "body": ("A text as the body. Only one of `body`, `json` and `form`.", "method: POST\nbody: hello"),
            "json": ("Any value, sent as JSON.", "method: POST\njson: {name: x}"),
            "form": ("Fields of a form.", "method: POST\nform: {name: x}"),
            "timeout": (_DURATION, "timeout: 10s"),
            "verify": (_VERIFY, "verify: /etc/ssl/own-ca.pem"),
            "expect-status": ("A status or several; `2xx` is all of them.", "expect-status: [200, 404]"),
            "retry-status": (
                "Statuses after which trying again can help: exit code 75. A short `Retry-After` is waited for, once.",
                "retry-status: 5xx",
            ),
            "max-bytes": ("The longest body.", "max-bytes: 4096"),
            "save-to": ("Puts the body of a good answer into this file.", "save-to: out.bin"),
        },
    ),
    "http/wait": _section(
        "http/wait",
        "Asks an address again and again until it answers as expected: a health check after a deploy.",
        "url: http://localhost:8080/health",
        {
            "url": ("The address.", "url: http://localhost:8080/health"),
            "expect-status": ("A status or several; `2xx` is all of them.", "expect-status: 204"),
            "timeout": (f"{_DURATION} After it the step fails with exit code 75.", "timeout: 5m"),
            "interval": (f"Between two attempts. {_DURATION}", "interval: 500ms"),
            "verify": (_VERIFY, "verify: false"),
        },
    ),
    "notify/webhook": _section(
        "notify/webhook",
        "Posts a message to a webhook. Its address is in no log, since it is a secret by itself.",
        "url: https://example.org/hook\nmessage: done",
        {
            "url": ("The hook's address.", "url: '${{ secrets.HOOK }}'"),
            "message": ("The message.", 'message: "run ${{ run.number }} is done"'),
            "template": ("The shape that the service wants.", "template: slack"),
            "json": ("Any value in place of a message.", "message: ''\njson: {text: done}"),
            "secret": ("Signs the body: HMAC-SHA256 in `X-Hub-Signature-256`.", "secret: '${{ secrets.SIGN }}'"),
            "timeout": (_DURATION, "timeout: 10s"),
        },
    ),
    "file/write": _section(
        "file/write",
        "Makes a file as it should be. It is written beside its place, flushed and renamed, so nobody sees half of it;"
        " `changed` is true only when something differed, and the difference goes to the log.",
        "path: /etc/app/app.conf\ncontent: hello",
        {**_FILE_KEYS, "content": ("The whole content.", 'content: "port = 8080\\n"')},
    ),
    "file/template": _section(
        "file/template",
        "The same from a template file, in which `${name}` stands for one of `values` and `$${` for itself. A value that the"
        " template wants and nobody gives is an error.",
        "source: app.tmpl\npath: /etc/app/app.conf",
        {
            **_FILE_KEYS,
            "source": ("The template; relative to the step's working directory.", "source: templates/app.conf"),
            "values": ("Names and values.", "values: {port: 8080}"),
        },
    ),
    "file/read": _section(
        "file/read",
        "Gives the content of a UTF-8 file to later steps, as `outputs.content`.",
        "path: VERSION",
        {
            "path": ("The file.", "path: VERSION"),
            "max-bytes": ("A longer file is a failure. At most 1 MiB.", "max-bytes: 1024"),
        },
    ),
    "file/delete": _section(
        "file/delete",
        "Removes a file; `changed` says whether it was there. `/`, the home directory and the job's directory are refused.",
        "path: old.conf",
        {
            "path": ("The file, or a link, which goes without what it leads to.", "path: old.conf"),
            "recursive": ("Removes a directory with all that is in it.", "recursive: true"),
        },
    ),
    "file/transfer": _section(
        "file/transfer",
        "Copies a file, a folder or what matches a pattern. Either end is a path of the server, `s3://bucket/key`,"
        " `sftp://user@host:port/path` (`/~/` in front: from the home directory) or an `http` or `https` address (a destination"
        " is put with PUT). `repo:path` is a source below the job's working directory. Nobody sees half of a file: what goes"
        " wrong leaves what was there before. `{date}` (2026-01-31) and `{time}` (235959) stand for the begin of the attempt,"
        " in UTC.",
        "source: /var/backups/shop.sql\ndestination: s3://backups/shop-{date}.sql",
        {
            "source": (
                "A file; a folder, in S3 with a slash at its end; or a pattern: `*`, `?` and `[...]` inside of one part of a"
                " name, `**` for any number of folders.",
                "source: repo:dist/*.tar.gz",
            ),
            "destination": (
                "A file, or a folder for many, which keep their names below the source's. A slash at its end makes it one.",
                "destination: 'sftp://deploy@files.example.org/srv/in/'\npassword: '${{ secrets.SFTP_PASSWORD }}'",
            ),
            "checksum": (
                "What the one file must have, `sha256:` and 64 digits; verified before anybody sees it.",
                "checksum: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            "mode": (
                "At a local or SFTP destination, in quotes. Default: that of the file that is there, else `0644`.",
                'mode: "0755"',
            ),
            "owner": (
                "The same for `user:group`; at an SFTP server by number.",
                "destination: /srv/in/\nowner: www-data:www-data",
            ),
            "timeout": (f"How long a server may be silent, or take for 8 MiB of S3. {_DURATION}", "timeout: 30s"),
            "verify": (_VERIFY, "verify: /etc/ssl/own-ca.pem"),
            "endpoint": (
                "Of S3, where it is not AWS itself. Default: `AWS_ENDPOINT_URL`.",
                "endpoint: https://s3.example.org",
            ),
            "region": ("Of S3. Default: `AWS_REGION`, else `us-east-1`.", "region: eu-central-1"),
            "access-key": (
                "Of S3, with `secret-key`. Default: `AWS_ACCESS_KEY_ID` and its kin, else what a machine in the cloud has.",
                "access-key: '${{ secrets.S3_KEY }}'\nsecret-key: '${{ secrets.S3_SECRET }}'",
            ),
            "secret-key": (
                "Of S3.",
                "access-key: '${{ secrets.S3_KEY }}'\nsecret-key: '${{ secrets.S3_SECRET }}'",
            ),
            "session-token": (
                "Of S3, with keys that are valid for a time.",
                "session-token: '${{ secrets.S3_TOKEN }}'",
            ),
            "private-key": (
                "Of SFTP: the key itself, or the path of one. Nothing of the agent's own user is tried.",
                "private-key: '${{ secrets.DEPLOY_KEY }}'",
            ),
            "passphrase": (
                "Of the private key.",
                "private-key: /etc/waterflow/deploy_key\npassphrase: '${{ secrets.PASSPHRASE }}'",
            ),
            "password": ("Of SFTP, in place of a key.", "password: '${{ secrets.SFTP_PASSWORD }}'"),
            "known-hosts": (
                "Of SFTP: the file with the keys of servers. Default: `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.",
                "known-hosts: /etc/waterflow/known_hosts",
            ),
            "host-key": (
                "In place of it the server's one key, as `SHA256:...` or as a public key.",
                "host-key: SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            ),
            "headers": (
                "Of HTTP, for the first server alone when it redirects.",
                "headers: {Authorization: 'Bearer ${{ secrets.TOKEN }}'}",
            ),
        },
    ),
    "systemd/unit": _section(
        "systemd/unit",
        "Brings a unit of systemd into a state, and changes nothing when it is in it. The agent must be allowed to, so it runs"
        " in the privileged profile.",
        "name: app.service",
        {
            "name": ("The unit.", "name: app.service"),
            "state": ("What it should be. `restarted` and `reloaded` always do it.", "state: started"),
            "enabled": ("Whether it starts with the system.", "enabled: true"),
            "reload": ("Reloads the unit, or restarts it, when it runs.", "reload: true"),
            "daemon-reload": ("Has systemd read its files again first.", "daemon-reload: true"),
        },
    ),
    "docker/exec": _section(
        "docker/exec",
        "Runs a docker command line, or a command inside of a container. There is no shell: nothing is expanded.",
        "",
        {
            "command": (
                "A whole command line, with or without `docker` in front.",
                "command: docker pull myapp:latest",
            ),
            "container": ("A container that runs; goes with `run`.", "container: mysql\nrun: mysqladmin ping"),
            "run": ("What runs inside of it.", 'container: mysql\nrun: mysql -e "CREATE DATABASE app"'),
        },
    ),
    "docker/pull": _section(
        "docker/pull",
        "Gets an image; `changed` says whether it is another one than before.",
        "image: myapp:latest",
        {
            "image": ("The image.", "image: myapp:latest"),
            "always": ("With false an image that is there will do.", "always: false"),
        },
    ),
    "docker/run": _section(
        "docker/run",
        "Runs a container, to its end or in the background. Its output is the step's; a cancel stops it.",
        "image: myapp:latest",
        {
            "image": ("The image.", "image: myapp:latest"),
            "command": ("The command: a list, or a text that is split as a shell would.", "command: [migrate, --all]"),
            "name": ("The container's name.", "name: app"),
            "env": ("Its environment.", "env: {MODE: prod}"),
            "volumes": ("`host:container`, with `:ro` for reading only.", "volumes: ['/srv/data:/data:ro']"),
            "ports": ("Port of the container to port of the host.", "ports: {80/tcp: 8080}"),
            "network": ("The network.", "network: host"),
            "user": ("The user inside.", "user: '1000'"),
            "working-dir": ("The directory inside.", "working-dir: /app"),
            "entrypoint": ("In place of the image's own.", "entrypoint: [sh, -c]"),
            "labels": ("Labels.", "labels: {team: web}"),
            "restart": ("When the engine starts it again.", "detach: true\nrestart: unless-stopped"),
            "detach": ("Leaves it running and goes on.", "detach: true"),
            "remove": ("Removes it after its end.", "remove: false"),
        },
    ),
    "docker/stop": _section(
        "docker/stop",
        "Stops a container, if it runs.",
        "container: app",
        {
            "container": ("Its name or id.", "container: app"),
            "grace": (f"Before it is killed. {_DURATION}", "grace: 30s"),
            "remove": ("Removes it too.", "remove: true"),
        },
    ),
    "docker/compose-up": _section(
        "docker/compose-up",
        "Brings the services of a compose file up, by `docker compose` version 2; `outputs.services` has the state of each.",
        "file: compose.yml",
        {
            **_COMPOSE_KEYS,
            "build": ("Builds images first.", "build: true"),
            "wait": ("Waits until all services run, or are healthy where they have a check.", "wait: false"),
            "pull": ("Which images are pulled.", "pull: always"),
        },
    ),
    "docker/compose-down": _section(
        "docker/compose-down",
        "Takes the services of a compose file down.",
        "file: compose.yml",
        {**_COMPOSE_KEYS, "volumes": ("Removes their volumes too.", "volumes: true")},
    ),
}
