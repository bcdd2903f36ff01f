"""Remote repositories: fetched by child processes into mirrors on this machine."""
