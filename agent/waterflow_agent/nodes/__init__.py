"""What the agent does for a step's `uses`. `schema` is the contract; the rest carries it out.

`parameters` turns a task's parameters into a node's record, `instant` does the nodes that run inside the agent, `shell`
turns a script into a process, `stepfiles` reads what the script wrote for later steps.
"""
