//! One process serves a file (invariant 13): a lock file beside it, held as long as the process lives.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mailspan_core::Millis;
use rustix::fs::{FlockOperation, flock};

/// The process that holds the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// 0 where the lock file does not say.
    pub pid: u32,
    pub since: Millis,
    /// Where its API listens.
    pub socket: Option<PathBuf>,
}

/// Who holds the store at `path` now; `None` when nobody does. The answer may be old when it arrives.
pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
    let mut file = match File::open(lock_path(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => read_holder(&mut file).map(Some),
        Err(errno) => Err(errno.into()),
    }
}

/// Held until it is dropped; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock, or says who has it. The file itself is never removed: a removed one could be held twice.
pub(crate) fn take(path: &Path, holder: &Holder) -> io::Result<Result<Lock, Holder>> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock_path(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return read_holder(&mut file).map(Err),
        Err(errno) => return Err(errno.into()),
    }
    let socket = holder.socket.as_deref().map(Path::to_string_lossy).unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n{}\n{socket}\n", holder.pid, holder.since.0).as_bytes())?;
    Ok(Ok(Lock { _file: file }))
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn read_holder(file: &mut File) -> io::Result<Holder> {
    let mut text = String::new();
    file.take(8_192).read_to_string(&mut text)?;
    let mut lines = text.lines();
    Ok(Holder {
        pid: lines.next().and_then(|line| line.parse().ok()).unwrap_or(0),
        since: Millis(lines.next().and_then(|line| line.parse().ok()).unwrap_or(0)),
        socket: lines.next().filter(|line| !line.is_empty()).map(PathBuf::from),
    })
}
