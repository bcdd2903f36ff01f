"""Remote repositories: child processes fetch them into mirrors on this machine."""
