"""Imports job definitions of Rundeck, in YAML or XML: each job becomes a workflow.

| module | holds |
|---|---|
| `definitions` | reads both formats as the same values |
| `options` | options as inputs, and the variables of Rundeck as expressions |
| `schedules` | schedules of Rundeck, with Quartz expressions, as cron expressions |
| `steps` | the steps of a job |
| `workflows` | the workflow of a job |
"""
