"""Imports declarative pipelines of Jenkins: a Jenkinsfile becomes one workflow.

| module | holds |
|---|---|
| `groovy` | reads the declarative subset of Groovy as statements; anything else stays text |
| `values` | literals, arguments, and the variables of Jenkins as expressions |
| `conditions` | `when` as a condition |
| `steps` | steps |
| `settings` | `agent`, `environment`, `parameters`, `triggers`, `options` |
| `pipelines` | the workflow: stages as jobs and steps |
"""
