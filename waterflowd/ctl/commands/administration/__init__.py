"""Commands that administer the daemon: agents, groups, tokens, retention, notices, configuration, audit trail."""
