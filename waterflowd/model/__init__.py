"""What everybody talks about: ids, plans, statuses with their transition tables, and reasons. Pure data."""
