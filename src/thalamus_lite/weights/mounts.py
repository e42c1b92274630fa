"""Which file system a path lies on."""

from __future__ import annotations

import re
from pathlib import Path

NETWORK = frozenset(
    (
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "afs",
            "9p",
            "ceph",
            "glusterfs",
            "lustre",
            "gpfs",
        ),
        *("beegfs", "ocfs2", "gfs2", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph"),
        *(
            "fuse.s3fs",
            "fuse.gcsfuse",
            "fuse.rclone",
            "fuse.juicefs",
            "fuse.goofys",
            "fuse.mount-s3",
        ),
    )
)
"""File systems on which locks or SQLite are known not to hold between machines."""


def fs_type(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the path's file system, as in `/proc/self/mountinfo`; "" where there is none."""
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
        target = path.resolve()
    except (OSError, RuntimeError):
        # RuntimeError: a link to itself.
        return ""
    best, found = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        mount = Path(_unescaped(fields[4]))
        depth = len(mount.parts)
        # The last of two mounts on one point hides the first.
        if depth >= best and target.is_relative_to(mount):
            best, found = depth, after.split(" ")[0]
    return found


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
