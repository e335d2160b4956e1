//! Whether an answer was written to who asked: what was said to somebody who is gone was said to nobody, and goes
//! elsewhere. A connection's stream notes when all that was to be written is with the other machine's care. Touches only
//! the stream it is given.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use smol::channel::{Receiver, Sender};
use smol::io::{AsyncRead, AsyncWrite};

/// Goes with an answer. Dropped before it is noted, the answer was not written.
#[derive(Debug)]
pub(super) struct Written(Sender<()>);

/// Waits for what becomes of an answer.
#[derive(Debug)]
pub(super) struct Outcome(Receiver<()>);

/// One that goes with an answer, and one that waits for it.
pub(super) fn pair() -> (Written, Outcome) {
    let (sender, receiver) = smol::channel::bounded(1);
    (Written(sender), Outcome(receiver))
}

impl Written {
    fn note(self) {
        let _ = self.0.try_send(());
    }
}

impl Outcome {
    /// Whether it was written, once that is known.
    pub(super) async fn is_written(&self) -> bool {
        self.0.recv().await.is_ok()
    }
}

/// The answer that a connection writes now, where somebody waits for what becomes of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Written>>>);

impl Slot {
    /// The response that is given next is this one.
    pub(super) fn expect(&self, written: Option<Written>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = written;
    }

    pub(super) fn flushed(&self) {
        if let Some(written) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            written.note();
        }
    }
}

/// A stream that notes in its slot when everything was written: a response is given to be written whole in the same
/// moment in which it is known, so the next flush that ends is its own.
pub(super) struct Noting<S> {
    pub(super) stream: S,
    pub(super) slot: Slot,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.slot.flushed();
        }
        flushed
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use hyper::Response;

    use super::*;
    use crate::controlplane::{http, tasks};

    /// Serves one request with an answer of so many bytes to a peer that reads it, or is gone before it comes.
    fn is_written(bytes: usize, reads: bool) -> bool {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let (_open, closing) = smol::channel::bounded::<Infallible>(1);
        peer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let peer = reads.then_some(peer);
        let reading = std::thread::spawn(move || {
            peer.map(|mut peer| peer.read_to_end(&mut Vec::new()).unwrap()).unwrap_or_default()
        });
        let slot = Slot::default();
        let (written, outcome) = pair();
        let written = Mutex::new(Some(written));
        let stream = Noting { stream: smol::Async::new(ours).unwrap(), slot: slot.clone() };
        tasks::block_on(http::connection(stream, closing, move |_| {
            slot.expect(written.lock().unwrap().take());
            async move { Response::new(http::full(vec![b'x'; bytes])) }
        }));
        let is_written = tasks::block_on(outcome.is_written());
        assert!(!is_written || reading.join().unwrap() > bytes);
        is_written
    }

    #[test]
    fn what_was_read_was_written_and_what_nobody_takes_was_not() {
        for bytes in [0, 10, 1 << 20] {
            assert!(is_written(bytes, true), "{bytes}");
            assert!(!is_written(bytes, false), "{bytes}");
        }
    }
}
