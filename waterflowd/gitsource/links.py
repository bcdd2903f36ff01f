"""Symbolic links of a tree: whether one of them leads out of it. Pure.

Theory: the target of a link depends on the other links in its path, so its text is not enough: `a -> b/..` stays inside, unless
`b` is a link to a folder further up. So each link is followed as the kernel would, through the tree's own links. A dangling
link or a cycle leads nowhere and is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping

#: As many as Linux follows.
_FOLLOWED_MAX = 40


def leaves(links: Mapping[bytes, bytes], path: bytes) -> bool:
    """Whether the link at `path` leads out of the tree. `links` maps the path of each link in the tree to its target."""
    here = path.split(b"/")[:-1]
    pending = links[path].split(b"/")
    if links[path].startswith(b"/"):
        return True
    followed = 1
    while pending:
        part = pending.pop(0)
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not here:
                return True
            here.pop()
            continue
        here.append(part)
        target = links.get(b"/".join(here))
        if target is None:
            continue
        followed += 1
        if target.startswith(b"/"):
            return True
        if followed > _FOLLOWED_MAX:
            return False
        here.pop()
        pending[:0] = target.split(b"/")
    return False
