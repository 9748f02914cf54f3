//! Unit tests of `connect`.

use super::blackhole::Blackhole;
use super::*;
use crate::config::Timeouts;
use crate::util::cancel::CancelToken;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

fn call(cancel: Option<Arc<CancelToken>>, connect: u64) -> Rc<Call> {
    let limits = Timeouts { connect: Some(Duration::from_secs(connect)), ..Timeouts::default() };
    Call::new(limits, false, cancel, None, time::now())
}

fn refusing() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let addr = socket.local_addr().expect("bound").as_socket().expect("an address");
    // Bound for as long as the tests run, and never listening.
    std::mem::forget(socket);
    addr
}

// S12, R17
#[test]
fn dead_addresses_of_a_name_delay_the_first_connection_a_little_and_later_ones_not_at_all() {
    let holes = [Blackhole::new(), Blackhole::new(), Blackhole::new(), Blackhole::new()];
    let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let good = (good.local_addr().expect("bound"), good);
    let addrs: Vec<_> = holes.iter().map(Blackhole::addr).chain([refusing(), good.0]).collect();
    let addresses = Addresses::default();
    // With the old way, a second for each of them, the limit would be met.
    let stream = addresses.connect(&call(None, 3), &addrs).expect("the last one listens");
    assert_eq!(stream.peer_addr().expect("connected"), good.0);
    assert_eq!(addresses.request(&addrs)[0], good.0);
    assert_eq!(addresses.connect(&call(None, 3), &addrs).expect("again").peer_addr().expect("connected"), good.0);
}

#[test]
fn an_address_that_refuses_is_tried_last_and_the_next_one_at_once() {
    let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addrs: Vec<_> = (0..8).map(|_| refusing()).chain([good.local_addr().expect("bound")]).collect();
    let addresses = Addresses::default();
    assert!(addresses.connect(&call(None, 1), &addrs).is_ok(), "eight refusals take no time");
    assert_eq!(addresses.request(&addrs)[0], addrs[8]);
    drop(good);
    let refused = addresses.connect(&call(None, 1), &addrs).expect_err("nobody listens");
    assert!(matches!(refused, Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused));
}

// S12
#[test]
fn connecting_goes_on_for_all_of_its_time_and_then_names_it() {
    let hole = Blackhole::new();
    let call = call(None, 1);
    let ended = Addresses::default().connect(&call, &[hole.addr()]);
    assert!(matches!(ended, Err(Error::Timeout(Timeout::Connect))));
    assert_eq!(call.expired.get(), Some(super::super::call::Stage::Connect));
}

#[test]
fn a_client_that_leaves_ends_it() {
    let (hole, cancel) = (Blackhole::new(), Arc::new(CancelToken::default()));
    let other = Arc::clone(&cancel);
    let leaver = std::thread::spawn(move || other.cancel());
    let ended = Addresses::default().connect(&call(Some(cancel), 600), &[hole.addr()]);
    assert!(matches!(ended, Err(Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionAborted));
    leaver.join().expect("it does not panic");
}
