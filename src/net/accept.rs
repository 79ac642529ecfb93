//! Accepting connections: a cap for each listener, patience when descriptors run out, and a stop that has an end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listen::{BoundAddr, Listener, Socket};

/// The first wait after accepting failed for lack of descriptors or memory; doubles up to [`EXHAUSTED_WAIT_MAX`].
const EXHAUSTED_WAIT: Duration = Duration::from_millis(10);
const EXHAUSTED_WAIT_MAX: Duration = Duration::from_secs(1);

/// A connected socket of either kind.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Speaks a protocol on connections.
pub trait Protocol: Send + Sync + 'static {
    /// Serves one connection until it ends. Once `stop` is cancelled it finishes what it has begun and then ends.
    fn serve(&self, io: impl Io, stop: CancellationToken) -> impl Future<Output = ()> + Send;
}

/// Counts connections.
pub trait ConnectionObserver: Send + Sync + 'static {
    /// A connection was accepted.
    fn opened(&self, _listener: &BoundAddr) {}
    /// A connection ended.
    fn closed(&self, _listener: &BoundAddr) {}
    /// A connection above the cap was closed at once.
    fn refused(&self, _listener: &BoundAddr) {}
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncounted;

impl ConnectionObserver for Uncounted {}

/// How serving ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended in good order.
    pub finished: usize,
    /// Connections that were cut, since the time ran out.
    pub cut: usize,
}

impl std::ops::Add for Drained {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { finished: self.finished + other.finished, cut: self.cut + other.cut }
    }
}

trait Accept {
    type Io: Io;

    async fn accept(&self) -> io::Result<Self::Io>;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // Answers are smaller than a segment and must not wait for the next one.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Serves a listener until `stop` is cancelled; then closes the socket, lets connections finish for at most `drain`, and
/// cuts the rest. No connection outlives the returned future.
pub async fn serve<P: Protocol>(
    listener: Listener,
    protocol: Arc<P>,
    observer: Arc<impl ConnectionObserver>,
    stop: CancellationToken,
    drain: Duration,
) -> Drained {
    let addr = listener.addr().clone();
    let connections_max = listener.connections_max;
    let mut connections = JoinSet::new();
    let door = Door { addr: &addr, connections_max, protocol: &protocol, observer: &observer, stop: &stop };
    // The socket is dropped, and so closed, before draining: new callers are refused instead of left waiting.
    match listener.socket {
        Socket::Tcp(socket) => door.accept_until_stopped(&socket, &mut connections).await,
        Socket::Unix(socket, _file) => door.accept_until_stopped(&socket, &mut connections).await,
    }

    let deadline = Instant::now() + drain;
    let mut drained = Drained::default();
    while let Ok(Some(_)) = tokio::time::timeout_at(deadline, connections.join_next()).await {
        drained.finished += 1;
        observer.closed(&addr);
    }
    drained.cut = connections.len();
    connections.shutdown().await;
    for _ in 0..drained.cut {
        observer.closed(&addr);
    }
    drained
}

struct Door<'a, P, O> {
    addr: &'a BoundAddr,
    connections_max: usize,
    protocol: &'a Arc<P>,
    observer: &'a Arc<O>,
    stop: &'a CancellationToken,
}

impl<P: Protocol, O: ConnectionObserver> Door<'_, P, O> {
    async fn accept_until_stopped<A: Accept>(&self, socket: &A, connections: &mut JoinSet<()>) {
        let mut wait = EXHAUSTED_WAIT;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(_) = connections.join_next() => {
                    self.observer.closed(self.addr);
                    continue;
                }
                accepted = socket.accept() => accepted,
            };
            match accepted {
                // Closing at once tells the caller, whose client then backs off; left in the backlog it would hang.
                Ok(_) if connections.len() >= self.connections_max => {
                    self.observer.refused(self.addr);
                    tracing::warn!(listener = %self.addr, connections_max = self.connections_max, "too many connections");
                }
                Ok(io) => {
                    wait = EXHAUSTED_WAIT;
                    self.observer.opened(self.addr);
                    let (protocol, stop) = (Arc::clone(self.protocol), self.stop.clone());
                    connections.spawn(async move { protocol.serve(io, stop).await });
                }
                Err(error) if is_exhaustion(&error) => {
                    // The socket stays readable, so accepting again at once would only burn a core.
                    tracing::warn!(listener = %self.addr, %error, wait_ms = wait.as_millis(), "cannot accept connections");
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(EXHAUSTED_WAIT_MAX),
                    }
                }
                // The caller was gone before it was accepted.
                Err(error) => tracing::debug!(listener = %self.addr, %error, "a connection failed"),
            }
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;

    /// Sends back each byte; ends when told to, unless `stubborn`.
    struct Echo {
        stubborn: bool,
    }

    impl Protocol for Echo {
        async fn serve(&self, mut io: impl Io, stop: CancellationToken) {
            let mut byte = [0];
            loop {
                tokio::select! {
                    () = stop.cancelled(), if !self.stubborn => return,
                    read = io.read_exact(&mut byte) => {
                        if read.is_err() || io.write_all(&byte).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    #[derive(Default)]
    struct Counts {
        opened: AtomicUsize,
        closed: AtomicUsize,
        refused: AtomicUsize,
    }

    impl ConnectionObserver for Counts {
        fn opened(&self, _: &BoundAddr) {
            self.opened.fetch_add(1, Ordering::SeqCst);
        }
        fn closed(&self, _: &BoundAddr) {
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
        fn refused(&self, _: &BoundAddr) {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Running {
        addr: std::net::SocketAddr,
        counts: Arc<Counts>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<Drained>,
    }

    fn run(connections_max: usize, stubborn: bool) -> Running {
        let listener =
            Listener::tcp("127.0.0.1:0".parse().expect("an address"), connections_max).expect("binds");
        let BoundAddr::Tcp(addr) = *listener.addr() else { panic!("a TCP address") };
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let drain = Duration::from_millis(50);
        let task = tokio::spawn(serve(
            listener,
            Arc::new(Echo { stubborn }),
            Arc::clone(&counts),
            stop.clone(),
            drain,
        ));
        Running { addr, counts, stop, task }
    }

    async fn echoes(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn one_past_the_cap_is_closed_and_a_free_place_is_used_again() {
        let running = run(2, false);
        let mut first = TcpStream::connect(running.addr).await.expect("connects");
        let mut second = TcpStream::connect(running.addr).await.expect("connects");
        assert!(echoes(&mut first).await && echoes(&mut second).await);
        let mut third = TcpStream::connect(running.addr).await.expect("the kernel accepts");
        assert!(!echoes(&mut third).await);
        assert_eq!(running.counts.refused.load(Ordering::SeqCst), 1);
        drop(first);
        // The place is free once the server has seen the end, which the count of the closed tells.
        while running.counts.closed.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let mut fourth = TcpStream::connect(running.addr).await.expect("connects");
        assert!(echoes(&mut fourth).await);
        running.stop.cancel();
        assert_eq!(running.task.await.expect("ends"), Drained { finished: 2, cut: 0 });
        assert_eq!(running.counts.opened.load(Ordering::SeqCst), 3);
        assert_eq!(running.counts.closed.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn stopping_closes_the_door_and_cuts_what_does_not_end() {
        let running = run(2, true);
        let mut stream = TcpStream::connect(running.addr).await.expect("connects");
        assert!(echoes(&mut stream).await);
        running.stop.cancel();
        assert_eq!(running.task.await.expect("ends"), Drained { finished: 0, cut: 1 });
        assert!(!echoes(&mut stream).await);
        assert!(TcpStream::connect(running.addr).await.is_err());
    }

    struct Exhausted {
        failures: AtomicUsize,
        streams: tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>,
    }

    impl Accept for Exhausted {
        type Io = DuplexStream;

        async fn accept(&self) -> io::Result<DuplexStream> {
            if self.failures.load(Ordering::SeqCst) > 0 {
                self.failures.fetch_sub(1, Ordering::SeqCst);
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            self.streams.lock().await.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_waits_and_goes_on() {
        let (send, receive) = mpsc::channel(1);
        let socket = Exhausted { failures: AtomicUsize::new(3), streams: tokio::sync::Mutex::new(receive) };
        let (mut near, far) = tokio::io::duplex(8);
        send.send(far).await.expect("sends");
        let stop = CancellationToken::new();
        let begin = Instant::now();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                let addr = BoundAddr::Unix("test".into());
                let (protocol, observer) = (Arc::new(Echo { stubborn: false }), Arc::new(Uncounted));
                let door = Door {
                    addr: &addr,
                    connections_max: 1,
                    protocol: &protocol,
                    observer: &observer,
                    stop: &stop,
                };
                let mut connections = JoinSet::new();
                door.accept_until_stopped(&socket, &mut connections).await;
                connections.join_all().await;
            }
        });
        near.write_all(b"x").await.expect("writes");
        let mut byte = [0];
        near.read_exact(&mut byte).await.expect("is served after all");
        assert_eq!(begin.elapsed(), EXHAUSTED_WAIT * (1 + 2 + 4));
        stop.cancel();
        task.await.expect("ends");
    }
}
