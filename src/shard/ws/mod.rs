//! WebSocket, server side (RFC 6455, no extensions): the opening handshake, then frames.
//!
//! Nothing here reads or writes a socket.

pub mod codec;
pub mod handshake;
