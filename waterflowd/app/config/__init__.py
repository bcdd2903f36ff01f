"""The daemon's configuration: TOML, overridden by the environment and the command line.

    file, environment, command line ─loading─▶ tables ─checks─▶ Config ─derived─▶ access rules, quotas, addresses

Precedence: command line, environment, file, default. An unknown key is an error with its line and a suggestion.
"""

from waterflowd.app.config.derived import access_policy, access_rules, advertised, grant_lints, repository_limits
from waterflowd.app.config.loading import file_in_use, line_of_item, load
from waterflowd.app.config.tables import (
    DEFAULT_AUDIT_KEY_FILE,
    ENVIRONMENT_PREFIX,
    LOG_FORMATS,
    LOG_LEVELS,
    OTHER_VARIABLES,
    AgentsTable,
    AuditTable,
    ClusterTable,
    Config,
    EnvironmentTable,
    NotifyTable,
    TemporalTable,
)

__all__ = [
    "DEFAULT_AUDIT_KEY_FILE",
    "ENVIRONMENT_PREFIX",
    "LOG_FORMATS",
    "LOG_LEVELS",
    "OTHER_VARIABLES",
    "AgentsTable",
    "AuditTable",
    "ClusterTable",
    "Config",
    "EnvironmentTable",
    "NotifyTable",
    "TemporalTable",
    "access_policy",
    "access_rules",
    "advertised",
    "file_in_use",
    "grant_lints",
    "line_of_item",
    "load",
    "repository_limits",
]
