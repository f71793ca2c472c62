//! The door's unix socket: mode 0600, one daemon at a time, and only our own user or root comes in.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::error::{Class, Doing, EngineError, Result};

/// Root's user id.
const ROOT: u32 = 0;

/// The bound socket; dropping it takes the file away.
#[derive(Debug)]
pub struct DoorSocket {
    listener: UnixListener,
    path: PathBuf,
    // Held for as long as the socket is ours, so that two daemons never judge each other's file.
    _lock: File,
}

impl DoorSocket {
    /// Binds the socket, replacing a file that a dead daemon left.
    ///
    /// # Errors
    /// Another daemon answers there, or the file is no socket.
    pub fn bind(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)
                .doing(|| format!("creating {} (see --socket)", dir.display()))?;
        }
        let lock = lock(path)?;
        check_nobody_answers(path)?;
        // Bound beside and moved into place: nobody sees it before its mode is set, and a stale
        // file is replaced in one step.
        let beside = with_suffix(path, ".new");
        let _ = fs::remove_file(&beside);
        let bind = || {
            let listener = UnixListener::bind(&beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&beside, path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().doing(|| format!("opening --socket {}", path.display()))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Another handle on the listening socket.
    ///
    /// # Errors
    /// No file descriptors are left.
    pub fn listener(&self) -> Result<UnixListener> {
        self.listener.try_clone().doing(|| format!("--socket {}", self.path.display()))
    }
}

impl Drop for DoorSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// True for users who may use the door.
pub fn may_enter(peer_uid: u32) -> bool {
    peer_uid == ROOT || peer_uid == rustix::process::geteuid().as_raw()
}

fn lock(path: &Path) -> Result<File> {
    let name = with_suffix(path, ".lock");
    // Only we may open it: whoever can, could lock us out.
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&name);
    let file = file.doing(|| format!("creating {} (see --socket)", name.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(taken(path)),
    }
}

fn check_nobody_answers(path: &Path) -> Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.doing(|| format!("--socket {}", path.display()))?,
    };
    if !meta.file_type().is_socket() {
        let text = format!("--socket {} exists and is no socket: it is left alone", path.display());
        return Err(EngineError::new(Class::Resource, text));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(taken(path)),
        Err(e) => Err(EngineError::io(format!("asking who serves --socket {}", path.display()), e)),
    }
}

fn taken(path: &Path) -> EngineError {
    let text = format!("another process serves --socket {}: give this one its own", path.display());
    EngineError::new(Class::Resource, text)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> PathBuf {
        std::env::temp_dir().join(format!("dwcp-door-{}", uuid::Uuid::new_v4())).join("e.sock")
    }

    #[test]
    fn the_socket_is_ours_alone_and_goes_with_us() {
        let path = path();
        let socket = DoorSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        let second = DoorSocket::bind(&path).unwrap_err();
        assert_eq!(second.class(), Class::Resource);
        assert!(second.to_string().contains("another process serves"), "{second}");
        assert!(UnixStream::connect(&path).is_ok(), "the refused one must leave the file alone");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_not() {
        let path = path();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file");
        drop(DoorSocket::bind(&path).unwrap());
        let foreign = UnixListener::bind(&path).unwrap();
        assert!(DoorSocket::bind(&path).unwrap_err().to_string().contains("another process"));
        drop(foreign);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(DoorSocket::bind(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_root_and_our_own_user_may_enter() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_enter(ROOT) && may_enter(own));
        assert!(!may_enter(own + 1));
    }
}
