"""What people write: one model per concept of the language, its fields the keys of the file."""
