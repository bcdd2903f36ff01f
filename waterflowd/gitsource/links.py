"""Symbolic links of a tree: whether one of them leads out of it. Pure.

Theory: where a link leads depends on the other links on its way, so its text alone does not tell: `a -> b/..` stays, unless `b`
is a link to a place further up. So each link is followed as the kernel would, over the tree's own links. What is not there
leads nowhere and does no harm; a circle neither.
"""

from __future__ import annotations

from collections.abc import Mapping

#: As many as Linux follows.
_FOLLOWED_MAX = 40


def leaves(links: Mapping[bytes, bytes], path: bytes) -> bool:
    """Whether the link at `path` leads out of the tree. `links` are all of the tree's, path to target."""
    here = path.split(b"/")[:-1]
    waiting = links[path].split(b"/")
    if links[path].startswith(b"/"):
        return True
    followed = 1
    while waiting:
        part = waiting.pop(0)
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
        waiting[:0] = target.split(b"/")
    return False
