"""Routes that administer the daemon: agents, tokens, repositories, webhooks, retention, notices, configuration, audit trail."""
