"""What `uses` names: built-in nodes and own ones, composite steps, called and child workflows, and the checkout of GitHub."""
