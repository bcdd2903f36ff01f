"""Access to the daemon: roles, API tokens, roles of the users of the unix socket, and the audit trail."""
