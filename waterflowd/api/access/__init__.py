"""Who sends a request, and how much it may ask for: authentication, browser sessions, origins, limits."""
