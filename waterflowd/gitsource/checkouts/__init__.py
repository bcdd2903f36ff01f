"""What agents check out, and what runs are compared by: files of commits, from one repository or several."""
