"""The file system that a path is on: a network file system does not report changes made by other machines."""

from __future__ import annotations

#: File systems on which other machines can make changes that inotify does not report.
_NETWORK_TYPES_TEXT = """
nfs nfs4 cifs smb3 smbfs 9p afs ceph glusterfs lustre ocfs2 gfs2 virtiofs vboxsf prl_fs
fuse.sshfs fuse.s3fs fuse.glusterfs fuse.ceph fuse.rclone fuse.vmhgfs-fuse
"""
NETWORK_TYPES = frozenset(_NETWORK_TYPES_TEXT.split())


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
        # The table is in mount order, so of two mounts at one path the later one is on top.
        if is_above and len(mount_point) >= length:
            found = right.split()[0]
            length = len(mount_point)
    return found


def _unescaped(field: str) -> str:
    for code in ("040", "011", "012", "134"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field
