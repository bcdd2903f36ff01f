"""From the models of a file to its plan: everything that has to be checked across the whole file."""
