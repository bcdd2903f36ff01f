"""What runs on Temporal have to do with one another: locks of concurrency groups, and child runs."""
