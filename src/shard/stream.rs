//! A client's byte stream: over TCP, TLS on it, or a unix socket.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::stream::TlsStream;

/// An accepted stream that belongs to no runtime, on its way to its shard.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// An accepted stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Unix(UnixStream),
}

/// Calls the same method whatever the stream is.
macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Tls($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

impl Stream {
    /// Takes the stream into this thread's runtime.
    pub(super) fn attach(accepted: Accepted) -> io::Result<Self> {
        Ok(match accepted {
            Accepted::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }

    /// Takes the stream out of this thread's runtime.
    pub(super) fn detach(self) -> io::Result<Accepted> {
        Ok(match self {
            Stream::Tcp(stream) => Accepted::Tcp(stream.into_std()?),
            Stream::Tls(_) => return Err(io::ErrorKind::Unsupported.into()), // it changes shards before its handshake
            Stream::Unix(stream) => Accepted::Unix(stream.into_std()?),
        })
    }

    /// The peer's address; none on a unix socket.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip().to_canonical()),
            Stream::Tls(stream) => stream.peer(),
            Stream::Unix(_) => None,
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read_ready(cx))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_write_ready(cx))
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        each!(self, stream => stream.writable().await)
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        each!(self, stream => stream.readable().await)
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_read(buffer))
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Tls(stream) => stream.try_write_vectored(&[IoSlice::new(bytes)]),
            Stream::Unix(stream) => stream.try_write(bytes),
        }
    }

    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, stream => stream.try_write_vectored(slices))
    }

    /// Bytes that count as written and have yet to be handed to the socket.
    pub(super) fn held_back_bytes(&self) -> usize {
        match self {
            Stream::Tls(stream) => stream.held_back_bytes(),
            Stream::Tcp(_) | Stream::Unix(_) => 0,
        }
    }

    /// Bytes that were taken from the socket and have yet to be read.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            Stream::Tls(stream) => stream.kept_bytes(),
            Stream::Tcp(_) | Stream::Unix(_) => 0,
        }
    }

    /// Hands it to the socket, as far as that takes it.
    pub(super) fn flush_what_goes(&self) -> io::Result<()> {
        match self {
            Stream::Tls(stream) => match stream.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                flushed => flushed,
            },
            Stream::Tcp(_) | Stream::Unix(_) => Ok(()),
        }
    }

    /// Says that nothing more will be sent, if the socket takes that at once and closing it does not say so by itself.
    pub(super) fn end_at_once(&self) {
        if let Stream::Tls(stream) = self {
            let _ = stream.try_shutdown_write();
        }
    }

    /// Says that nothing more will be sent.
    pub(super) async fn shutdown_write(&self) -> io::Result<()> {
        loop {
            let said = match self {
                Stream::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
                Stream::Tls(stream) => stream.try_shutdown_write(),
                Stream::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            };
            match said {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                said => return said,
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => stream.poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => stream.poll_write(cx, &[IoSlice::new(bytes)]),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => stream.poll_write(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tls(stream) => stream.poll_flush(cx),
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())), // they hold nothing back
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => stream.poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
