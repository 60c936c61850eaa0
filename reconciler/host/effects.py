"""What an effect in one open folder expects to find there, and the pieces it is made of.

Every system call is ``os.NAME``, so that a test can make each one fail in turn.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from reconciler.errors import ActionFailed, Stale
from reconciler.host.looking import is_file, state_of
from reconciler.model import EntryState, FileState, OddState, Unlink, WriteFile
from reconciler.text import escape
from reconciler.values import replace

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def expect_name(fd: int, name: str, action: Unlink) -> None:
    """Raise ``Stale`` unless the name is the link, or the regular file, that the action expects."""
    target = action.target
    try:
        if os.readlink(name, dir_fd=fd) == target:
            return
    except FileNotFoundError:
        raise Stale(f"{escape(action.path)} is not there any more") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if not target and is_file(fd, name):
            return
    what = f"a link to {escape(target)}" if target else "a file"
    raise Stale(f"{escape(action.path)} is no longer {what}")


def is_link(fd: int, name: str, target: str, path: str) -> bool:
    """True for a link with that target, false for nothing there; ``Stale`` for anything else."""
    try:
        if os.readlink(name, dir_fd=fd) == target:
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    raise Stale(f"{escape(path.rpartition('/')[0])}/{escape(name)} is there and is no link to {escape(target)}")


def leave(fd: int, name: str, action: Unlink) -> bool:
    """Give the link the name that stays as well; false where such a link was there already.

    A second name is two calls less than a new link with the same owner.
    """
    if not action.target:
        raise ActionFailed(f"{escape(action.path)} is no link: nothing can take its place")
    try:
        os.link(name, action.leave, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    except FileExistsError:
        if is_link(fd, action.leave, action.target, action.path):
            return False
        raise
    except OSError:  # a file system that gives no link a second name; or it was taken away meanwhile
        _make_alike(fd, name, action)
        return True
    try:
        is_link(fd, action.leave, action.target, action.path)  # what was a link when it was looked at may be a file now
    except BaseException:
        discard(fd, action.leave)
        raise
    return True


def _make_alike(fd: int, name: str, action: Unlink) -> None:
    """Make the link that stays, owned like the one that goes."""
    os.symlink(action.target, action.leave, dir_fd=fd)
    try:
        with suppress(FileNotFoundError):
            there = os.lstat(name, dir_fd=fd)
            os.chown(action.leave, there.st_uid, there.st_gid, dir_fd=fd, follow_symlinks=False)
    except BaseException:
        discard(fd, action.leave)
        raise


def expect_state(fd: int, name: str, action: WriteFile) -> None:
    """Raise ``Stale`` unless the name holds what the action expects. Times do not count: content does."""
    try:
        there: EntryState | None = state_of(fd, name, action.path)
    except FileNotFoundError:
        there = None
    if _timeless(there) != _timeless(action.expects):
        raise Stale(f"{escape(action.path)} is not what it was when it was looked at")


def _timeless(state: EntryState | None) -> EntryState | None:
    return state if state is None or isinstance(state, OddState) else replace(state, mtime_ns=0)


def fill(fd: int, temporary: str, state: FileState) -> None:
    file = os.open(temporary, _CREATE, 0o600, dir_fd=fd)
    try:
        left = memoryview(state.content)
        while left:
            left = left[os.write(file, left) :]
        os.fchown(file, state.uid, state.gid)
        os.fchmod(file, state.mode)  # after the owner: chown(2) clears the set-user-ID bit
        for name, data in state.xattrs:  # after the mode, which would change the mask of an ACL
            os.setxattr(file, name, data)
        if state.mtime_ns:
            os.utime(file, ns=(state.mtime_ns, state.mtime_ns))
        os.fsync(file)
    finally:
        os.close(file)


def discard(fd: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=fd)
