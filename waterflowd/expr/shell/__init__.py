"""Shell scripts: the context of each expression, and the places where its value would be code."""
