"""Access to the daemon: roles, API tokens, roles of the users of the unix socket, what jobs may use, and the audit trail."""
