//! Unit tests of `cancel`.

use super::*;
use crate::util::time;
use std::io::Write;
use std::net::{Shutdown, TcpListener};

fn pair() -> (TcpStream, Arc<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (served, _) = listener.accept().expect("a connection");
    (client, Arc::new(served))
}

fn far() -> Instant {
    time::now() + Duration::from_secs(600)
}

#[test]
fn a_wait_ends_when_another_thread_cancels_it() {
    let cancel = Arc::new(CancelToken::default());
    let other = Arc::clone(&cancel);
    let thread = std::thread::spawn(move || other.cancel());
    assert!(cancel.wait_until(far(), time::now));
    thread.join().expect("it does not panic");
}

#[test]
fn a_wait_ends_when_the_client_hangs_up_or_the_server_stops() {
    let all = Arc::new(AtomicBool::new(false));
    let (client, served) = pair();
    let cancel = CancelToken::of_client(served, Arc::clone(&all));
    assert!(!cancel.wait_until(time::now(), time::now));
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert!(cancel.wait_until(far(), time::now));
    let cancel = CancelToken::of_client(pair().1, Arc::clone(&all));
    all.store(true, Ordering::SeqCst);
    assert!(cancel.wait_until(far(), time::now));
}

#[test]
fn a_pipelined_request_is_no_hang_up() {
    let (mut client, served) = pair();
    let cancel = CancelToken::of_client(served, Arc::default());
    client.write_all(b"GET / HTTP/1.1\r\n").expect("it is connected");
    assert!(!cancel.wait_until(time::now() + Duration::from_millis(20), time::now));
    drop(client);
    assert!(cancel.wait_until(far(), time::now));
}

#[test]
fn a_socket_that_is_waited_for_and_the_client_are_seen_at_once() {
    let ((mut upstream, ours), (client, served)) = (pair(), pair());
    let cancel = CancelToken::of_client(served, Arc::default());
    upstream.write_all(b"x").expect("it is connected");
    let seen = ready(&*ours, PollFlags::IN, Some(&cancel), TICK).expect("it polls");
    assert!(seen.contains(PollFlags::IN) && !cancel.is_cancelled());
    drop(client);
    let seen = ready(&*ours, PollFlags::empty(), Some(&cancel), TICK).expect("it polls");
    assert!(seen.is_empty() && cancel.is_cancelled());
}
