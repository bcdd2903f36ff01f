"""Types shared by all packages: ids, plans, statuses with their transition tables, and reasons. Pure data."""
