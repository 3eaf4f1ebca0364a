//! A port where nobody listens, for as long as a test needs that.

use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;

/// A port of 127.0.0.1 that the kernel gives to nobody else while this lives: a socket is bound to it, but does not
/// listen, so that connections are refused until a server that sets `SO_REUSEADDR` listens there.
pub(crate) struct ReservedPort {
    pub(crate) number: u16,
    _socket: Socket,
}

impl ReservedPort {
    pub(crate) fn new() -> Self {
        let bind = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
            let address = socket.local_addr()?.as_socket();
            Ok::<_, std::io::Error>(Self { number: address.expect("an IP address").port(), _socket: socket })
        };
        bind().expect("a port")
    }
}
