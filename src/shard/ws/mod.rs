//! WebSocket, server side (RFC 6455, RFC 7692): the opening handshake, then frames.
//!
//! Nothing here reads or writes a socket.

pub mod codec;
pub mod deflate;
pub mod handshake;
pub mod session;
