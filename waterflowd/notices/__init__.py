"""Notices: tells people by webhook or mail of what needs them, without a step in each workflow.

`events` and `state` say what is recorded (stream `notices`), `channels` where notices go and which, `content` what they say,
`watcher` finds out what has happened, `sender` delivers, `webhooks` and `mail` are the two ways to do so, `repository_file`
reads `.waterflow/notify.yml`.
"""
