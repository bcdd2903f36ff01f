"""Which file system a path lies on, because network file systems report nobody else's changes."""

from __future__ import annotations

#: File systems whose changes may come from another machine, which inotify does not see.
NETWORK_TYPES = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ocfs2", "gfs2", "virtiofs",
        "vboxsf", "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "fuse.ceph", "fuse.rclone", "fuse.vmhgfs-fuse", "prl_fs",
    }
)  # fmt: skip


def file_system_type(path: str, mount_table: str) -> str:
    """The type of the mount that holds the absolute `path`, from the text of `/proc/self/mountinfo`; "" if unknown."""
    found = ""
    length = -1
    for line in mount_table.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split()
        if not separator or len(fields) < 5 or not right.split():
            continue
        mount_point = _unescaped(fields[4])
        is_above = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        # The table is in the order of mounting, so of two at one place the later one is on top.
        if is_above and len(mount_point) >= length:
            found = right.split()[0]
            length = len(mount_point)
    return found


def _unescaped(field: str) -> str:
    for code in ("040", "011", "012", "134"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field
