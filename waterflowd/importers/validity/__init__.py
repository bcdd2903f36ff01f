"""Makes the text of a workflow valid: compiles it, edits it where the compiler reports an error, and compiles it again."""
