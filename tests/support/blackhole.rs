//! An address that takes connections into a full queue and drops the rest: a SYN into the void.

use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

pub struct Blackhole {
    socket: Socket,
    _filling: Vec<TcpStream>,
}

impl Blackhole {
    pub fn new() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// At an address that nobody listens at.
    pub fn at(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a TCP socket");
        socket.set_reuse_address(true).expect("an option every TCP socket has");
        socket.bind(&addr.into()).expect("a free port");
        socket.listen(0).expect("a bound socket");
        let addr = Self::addr_of(&socket);
        let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(200)).ok();
        // Linux takes one more than the backlog; the first that is not answered shows that the queue is full.
        let filling: Vec<_> = (0..8).map_while(|_| connect()).collect();
        assert!(filling.len() < 8, "the queue does not fill up");
        Self { socket, _filling: filling }
    }

    pub fn addr(&self) -> SocketAddr {
        Self::addr_of(&self.socket)
    }

    fn addr_of(socket: &Socket) -> SocketAddr {
        socket.local_addr().expect("a bound socket").as_socket().expect("an IP socket")
    }
}
