//! A socket whose small frames leave together.
//!
//! h2 copies a message's frame behind the frames before it, so that all of them leave in one write, only up to 256 bytes where
//! the socket takes several buffers at once, and up to 1,024 where it does not. Above that each message is written by itself: one
//! call of the system, and one wake-up of the caller, per answer instead of per turn. An answer to a check has 300 to 400 bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes everything on and says that it takes one buffer at a time.
pub(super) struct Gathered<T>(pub(super) T);

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::{Request, Response};
    use tokio::io::DuplexStream;

    use super::*;

    /// A socket that takes several buffers at once, as real ones do, and counts how often it is called.
    struct Counted {
        inner: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.inner).poll_write(context, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            let all: Vec<u8> = bytes.iter().flat_map(|slice| slice.iter().copied()).collect();
            Pin::new(&mut self.inner).poll_write(context, &all)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(context)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn the_answers_of_a_turn_leave_in_one_write() {
        const CALLS: usize = 16;
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let socket = Gathered(Counted { inner: far, writes: Arc::clone(&writes) });
        let (client, server) = tokio::join!(h2::client::handshake(near), h2::server::handshake(socket));
        let ((mut sender, connection), mut server) = (client.unwrap(), server.unwrap());
        let client = tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..CALLS {
            sender = sender.ready().await.unwrap();
            answers.push(sender.send_request(Request::new(()), true).unwrap().0);
        }
        let mut calls = Vec::new();
        while calls.len() < CALLS {
            calls.push(server.accept().await.unwrap().unwrap().1);
        }
        let before = writes.load(Ordering::Relaxed);
        for mut call in calls {
            let mut stream = call.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from(vec![7; 400]), true).unwrap();
        }
        let serving = tokio::spawn(async move { server.accept().await.is_none() });
        for answer in answers {
            let mut body = answer.await.unwrap().into_body();
            let mut len = 0;
            while let Some(chunk) = body.data().await {
                len += chunk.unwrap().len();
            }
            assert_eq!(len, 400);
        }
        let took = writes.load(Ordering::Relaxed) - before;
        assert!(took < CALLS / 2, "{CALLS} answers took {took} writes");
        drop(sender);
        assert!(serving.await.unwrap());
        client.await.unwrap().unwrap();
    }
}
