"""What the API shows of runs beyond their state, finding them by an abbreviated id, and starting them."""
