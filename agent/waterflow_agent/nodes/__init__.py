"""The nodes that steps use. `schema` defines their parameters and outputs; the other modules implement them.

`parameters` turns the parameters of a task into the node's record. `instant` runs the nodes that need no process. `shell` and
`script` turn a script into a process, and `step_files` reads what it wrote for later steps. All other nodes are classes
(`node`, `registry`), which run in their own process: `node_process` prepares it, `host` is its program.
"""
