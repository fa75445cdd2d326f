//! Files below a folder's handle, reached through no symbolic link: neither a name with `..` in it nor a link that
//! somebody swaps in between two calls leads outside.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To read and write it; it must be there.
    Write,
    /// To read and write a file that is not there yet: mode 0644 less the umask.
    Create,
}

impl Access {
    /// Never waits for the other end of a pipe, never makes a terminal ours.
    fn flags(self) -> OFlags {
        let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        match self {
            Self::Read => flags | OFlags::RDONLY,
            Self::Write => flags | OFlags::RDWR,
            Self::Create => flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        }
    }

    fn mode(self) -> Mode {
        if self == Self::Create { Mode::from_raw_mode(0o644) } else { Mode::empty() }
    }
}

/// Opens the file at `path`, which is a list of checked components, below `folder`.
///
/// # Errors
/// Of the system; `ELOOP` where a component is a symbolic link, `EEXIST` where a file to create is there.
pub fn open_beneath(folder: impl AsFd, path: &[impl AsRef<OsStr>], access: Access) -> io::Result<File> {
    Ok(File::from(open(folder.as_fd(), path, access.flags(), access.mode())?))
}

/// Opens the folder at `path` below `folder`; no components mean the folder itself.
///
/// # Errors
/// Of the system; `ELOOP` or `ENOTDIR` where a component is a symbolic link.
pub fn open_folder_beneath(folder: impl AsFd, path: &[impl AsRef<OsStr>]) -> io::Result<OwnedFd> {
    Ok(open(folder.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What is at `path` below `folder`, not followed if it is a symbolic link. The folders on the way are not checked for
/// links: nothing but the answer comes from there.
///
/// # Errors
/// Of the system, `ENOENT` among them.
pub fn stat_beneath(folder: impl AsFd, path: &[impl AsRef<OsStr>]) -> io::Result<Stat> {
    match path {
        [] => Ok(rustix::fs::fstat(folder)?),
        [name] => Ok(rustix::fs::statat(folder, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)?),
        path => Ok(rustix::fs::statat(folder, joined(path), AtFlags::SYMLINK_NOFOLLOW)?),
    }
}

/// Makes the folders of `path` below `folder` that are not there: mode 0755 less the umask.
///
/// # Errors
/// Of the system; `ELOOP` or `ENOTDIR` where a component is something else.
pub fn make_folders(folder: impl AsFd, path: &[impl AsRef<OsStr>]) -> io::Result<()> {
    let mut at: Option<OwnedFd> = None;
    for name in path {
        let parent = at.as_ref().map_or_else(|| folder.as_fd(), AsFd::as_fd);
        match rustix::fs::mkdirat(parent, name.as_ref(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = Some(step(parent, name.as_ref())?);
    }
    Ok(())
}

/// The components as one path. Not `Path::join`, where a component that begins with `/` replaces those before it.
fn joined(path: &[impl AsRef<OsStr>]) -> OsString {
    let mut joined = OsString::new();
    for (at, name) in path.iter().enumerate() {
        if at > 0 {
            joined.push("/");
        }
        joined.push(name);
    }
    joined
}

fn step(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

#[cfg(target_os = "linux")]
fn open(folder: BorrowedFd<'_>, path: &[impl AsRef<OsStr>], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};

    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match path {
        [] => openat2(folder, ".", flags, mode, resolve),
        [name] => openat2(folder, name.as_ref(), flags, mode, resolve),
        path => openat2(folder, joined(path), flags, mode, resolve),
    };
    match opened {
        // Linux before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => walk(folder, path, flags, mode),
        other => other,
    }
}

#[cfg(not(target_os = "linux"))]
fn open(folder: BorrowedFd<'_>, path: &[impl AsRef<OsStr>], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    walk(folder, path, flags, mode)
}

/// One component after the other, each below the handle of the last: as safe, and slower.
fn walk(folder: BorrowedFd<'_>, path: &[impl AsRef<OsStr>], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let Some((name, folders)) = path.split_last() else {
        return rustix::fs::openat(folder, ".", flags, mode);
    };
    let leads_away = |name: &[u8]| matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
    if path.iter().any(|name| leads_away(name.as_ref().as_bytes())) {
        return Err(Errno::XDEV);
    }
    let mut at: Option<OwnedFd> = None;
    for folder_name in folders {
        at = Some(step(at.as_ref().map_or(folder, AsFd::as_fd), folder_name.as_ref())?);
    }
    rustix::fs::openat(at.as_ref().map_or(folder, AsFd::as_fd), name.as_ref(), flags | OFlags::NOFOLLOW, mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn both(folder: &File, path: &[&str]) -> [Result<OwnedFd, Errno>; 2] {
        let flags = Access::Read.flags();
        [open(folder.as_fd(), path, flags, Mode::empty()), walk(folder.as_fd(), path, flags, Mode::empty())]
    }

    #[test]
    fn p01_no_name_leads_outside_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("inside");
        std::fs::create_dir_all(inside.join("deep")).unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::fs::write(inside.join("deep/file"), "f").unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink(outside.path().join("secret"), inside.join("link")).unwrap();
        symlink("deep", inside.join("shallow")).unwrap();
        let folder = File::open(&inside).unwrap();

        let paths: [&[&str]; 6] = [
            &["..", "secret"],
            &["deep", "..", "..", "secret"],
            &["/etc/passwd"],
            &["up", "secret"],
            &["link"],
            &["shallow", "file"],
        ];
        for path in paths {
            for opened in both(&folder, path) {
                assert!(opened.is_err(), "{path:?}");
            }
        }
        assert!(both(&folder, &["deep", "file"]).iter().all(Result::is_ok));
        assert!(make_folders(&folder, &["up", "new"]).is_err());
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn p11_modes_are_plain_and_files_are_created_only_where_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let handle = File::open(folder.path()).unwrap();
        make_folders(&handle, &["a", "b"]).unwrap();
        make_folders(&handle, &["a", "b"]).unwrap();
        let file = open_beneath(&handle, &["a", "b", "c"], Access::Create).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7133, 0);
        let again = open_beneath(&handle, &["a", "b", "c"], Access::Create).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(stat_beneath(&handle, &["a", "b", "c"]).unwrap().st_size, 0);
    }
}
