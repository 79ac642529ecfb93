//! Binding TCP and Unix sockets, apart from serving them, so that port 0 works and every bound address can be logged.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

/// Connections over TCP that one listener holds at once.
pub const TCP_CONNECTIONS_MAX: usize = 256;

/// Connections over a Unix socket that one listener holds at once.
pub const UNIX_CONNECTIONS_MAX: usize = 64;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddr {
    /// A TCP address, with the port that was really bound.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for BoundAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on {addr}: {source}; choose another address or stop what uses it")]
    Tcp {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("another process listens on {}; stop it or choose another path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands at the path.
    #[error("{} exists and is no socket; choose another path", path.display())]
    NotASocket {
        /// What stands there.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}; the directory must exist and be writable", path.display())]
    Unix {
        /// The path that was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket that takes connections once it is served. Dropped: closed, and a Unix socket's file removed.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    pub(super) connections_max: usize,
    addr: BoundAddr,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    /// The file goes when the listener goes.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds a TCP address, for up to `connections_max` connections. Must run within the runtime.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn tcp(addr: SocketAddr, connections_max: usize) -> Result<Self, BindError> {
        let bind = || {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart must not wait until connections of the run before have left the kernel.
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            let listener = socket.listen(BACKLOG)?;
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        };
        let (listener, bound) = bind().map_err(|source| BindError::Tcp { addr, source })?;
        Ok(Self { socket: Socket::Tcp(listener), connections_max, addr: BoundAddr::Tcp(bound) })
    }

    /// Binds a Unix socket with the file mode `mode`, for up to `connections_max` connections. A socket left behind by
    /// a run that was killed is removed first; one that answers is not. Must run within the runtime.
    ///
    /// # Errors
    /// When another process listens there, something else stands there, or the socket cannot be made.
    pub fn unix(path: &Path, mode: u32, connections_max: usize) -> Result<Self, BindError> {
        let failed = |source| BindError::Unix { path: path.to_owned(), source };
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = SocketFile::of(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Self {
            socket: Socket::Unix(listener, file),
            connections_max,
            addr: BoundAddr::Unix(path.to_owned()),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> &BoundAddr {
        &self.addr
    }
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        // Whatever else keeps us from connecting, its mode above all: someone may be listening.
        Ok(_) | Err(_) => Err(BindError::InUse { path: path.to_owned() }),
    }
}

/// The file of a Unix socket; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have replaced the file already, and its socket must stay.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket's file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as BlockingUnixListener;

    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[tokio::test]
    async fn port_zero_becomes_a_real_port() {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address"), 1).expect("binds");
        let BoundAddr::Tcp(addr) = *listener.addr() else { panic!("a TCP address") };
        assert_ne!(addr.port(), 0);
        let taken = Listener::tcp(addr, 1).expect_err("taken");
        assert!(taken.to_string().starts_with(&format!("cannot listen on {addr}: ")), "{taken}");
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let dir = dir();
        let path = dir.path().join("api.sock");
        let listener = Listener::unix(&path, 0o660, 1).expect("binds");
        assert_eq!(fs::metadata(&path).expect("exists").mode() & 0o777, 0o660);
        assert_eq!(listener.addr().to_string(), format!("unix:{}", path.display()));
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let dir = dir();
        let path = dir.path().join("api.sock");
        drop(BlockingUnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "a killed process leaves its socket");
        let listener = Listener::unix(&path, 0o660, 1).expect("binds over it");
        BlockingUnixStream::connect(&path).expect("answers");
        drop(listener);
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_left_alone() {
        let dir = dir();
        let path = dir.path().join("api.sock");
        let other = BlockingUnixListener::bind(&path).expect("binds");
        assert!(matches!(Listener::unix(&path, 0o660, 1), Err(BindError::InUse { .. })));
        drop(other);
    }

    #[tokio::test]
    async fn a_file_is_left_alone() {
        let dir = dir();
        let path = dir.path().join("api.sock");
        fs::write(&path, "precious").expect("writes");
        assert!(matches!(Listener::unix(&path, 0o660, 1), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("reads"), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_survives_its_predecessor() {
        let dir = dir();
        let path = dir.path().join("api.sock");
        let first = Listener::unix(&path, 0o660, 1).expect("binds");
        fs::rename(&path, dir.path().join("old.sock")).expect("renames");
        let second = Listener::unix(&path, 0o660, 1).expect("binds");
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
