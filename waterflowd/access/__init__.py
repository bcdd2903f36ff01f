"""Access control: roles, API tokens, and the audit trail."""
