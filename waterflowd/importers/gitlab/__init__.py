"""Imports pipelines of GitLab CI: `.gitlab-ci.yml` with its local includes becomes one workflow.

| module | holds |
|---|---|
| `pipeline` | reads the files: includes, `extends`, `!reference`, defaults; yields jobs with all their keys |
| `variables` | GitLab's variables as expressions |
| `conditions` | `rules`, `only` and `except` as conditions |
| `jobs` | one job with its steps |
| `job_keys` | the keys of a job that are translated by themselves |
| `job_drafts` | a job that is being written |
| `workflow` | the workflow: events, order of the jobs, comments |
"""
