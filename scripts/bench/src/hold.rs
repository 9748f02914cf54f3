//! Modes on connections that are held: memory, slow clients, and the size of the program.

use crate::Fault;
use crate::http::{Client, PATIENCE};
use crate::mock::{Order, spawn};
use crate::streams::Events;
use crate::table::{Goal, Table, quantile};
use crate::target::{Kind, Rig};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use std::{fs, process, thread};

const SLOW_HEADS: usize = 1_500;
const SLOW_BODIES: usize = 200;

/// Resident memory of a fresh process: idle, with open streams, with idle connections.
pub fn memory(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    if kind == Kind::Direct {
        return Ok(());
    }
    let door = rig.open(kind, 64)?;
    thread::sleep(Duration::from_millis(500)); // start-up is over: threads, first probe
    table.put(kind, "RSS idle", "MB", Goal::Max(8.0), door.rss());

    let door = rig.open(kind, 64)?;
    let mut streams = Vec::new();
    for i in 0..64 {
        let order = Order::Stream { count: 1_000, gap: Duration::from_millis(20 + i % 30), id: 0 };
        streams.push(Events::open(door.addr, order).map_err(|e| format!("stream {i}: {e}"))?);
    }
    for stream in &mut streams {
        stream.wait_for(10)?;
    }
    table.put(kind, "RSS, 64 streams", "MB", Goal::Max(24.0), door.rss());
    drop(streams);

    let door = rig.open(kind, 64)?;
    let request = Order::Json.request(0);
    let mut clients: Vec<Client> = (0..1_000).map(|_| Client::new(door.addr)).collect();
    for client in &mut clients {
        client.call(&request)?;
    }
    table.put(kind, "RSS, 1,000 idle connections", "MB", Goal::Max(16.0), door.rss());
    Ok(())
}

/// Good requests beside slow heads and slow bodies, against the same requests alone.
pub fn slow(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    if kind == Kind::Direct {
        return Ok(()); // the mock is not what is attacked
    }
    let door = rig.open(kind, 64)?;
    let (quiet, refused_quiet) = good(door.addr, rig.span(5))?;
    let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (addr, stopped, opened) = (door.addr, stop.clone(), open.clone());
    let attacker = spawn(move || attack(addr, &stopped, &opened))?;
    let started = Instant::now();
    while open.load(Relaxed) < SLOW_HEADS + SLOW_BODIES && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let attacked = good(door.addr, rig.span(6));
    stop.store(true, Relaxed);
    let _ = attacker.join(); // its panic would have been printed
    let (attacked, refused) = attacked?;
    table.put(kind, "good requests, quiet, p99", "µs", Goal::LocalResponse, quiet);
    table.put(kind, "good requests, attacked, p99", "µs", Goal::LocalResponse, attacked);
    let beyond = attacked - 1.25 * quiet;
    table.put(kind, "attacked p99 beyond 1.25 x quiet p99", "µs", Goal::Max(2_000.0), beyond);
    table.put(kind, "good requests refused", "count", Goal::Worst(0.0), f64::from(refused + refused_quiet));
    table.put(kind, "slow connections open at the end", "count", Goal::LocalResponse, open.load(Relaxed) as f64);
    Ok(())
}

/// Eight clients, a request each every 5 ms, every 200th on a new connection: p99 in µs and how many failed.
fn good(addr: SocketAddr, span: Duration) -> Result<(f64, u32), Fault> {
    let (tell, done) = channel();
    for i in 0..8 {
        let tell = tell.clone();
        spawn(move || {
            let request = Order::Json.request(0);
            let (mut client, mut samples, mut refused) = (Client::new(addr), Vec::new(), 0);
            thread::sleep(Duration::from_micros(600 * i)); // not all at once
            let end = Instant::now() + span;
            while Instant::now() < end {
                let sent = Instant::now();
                refused += u32::from(client.call(&request).is_err());
                samples.push(sent.elapsed().as_nanos() as f64 / 1e3);
                if samples.len().is_multiple_of(200) {
                    client.hang_up();
                }
                thread::sleep(Duration::from_millis(5));
            }
            let _ = tell.send((samples, refused)); // the receiver waits for all
        })?;
    }
    drop(tell);
    let (mut samples, mut refused) = (Vec::new(), 0);
    for (some, failed) in done {
        samples.extend(some);
        refused += failed;
    }
    Ok((quantile(&mut samples, 0.99).ok_or("no samples")?, refused))
}

/// Opens all slow connections, then gives each a byte a second and reopens what was closed.
fn attack(addr: SocketAddr, stop: &AtomicBool, open: &AtomicUsize) {
    let mut slow: Vec<Option<TcpStream>> = (0..SLOW_HEADS + SLOW_BODIES).map(|_| None).collect();
    let batch = slow.len().div_ceil(100);
    for at in (0..slow.len()).cycle() {
        if stop.load(Relaxed) {
            return;
        }
        let begun = slow[at].is_some();
        if slow[at].as_mut().is_none_or(|stream| trickle(stream).is_err()) {
            slow[at] = slow_client(addr, at).ok();
        }
        if at % batch == 0 {
            open.store(slow.iter().flatten().count(), Relaxed);
            if begun {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn slow_client(addr: SocketAddr, at: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
    let tail = if at < SLOW_HEADS { "X-Slow: " } else { "Content-Length: 10000\r\n\r\n{" };
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    stream.write_all(format!("{head}{tail}").as_bytes())?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn trickle(stream: &mut TcpStream) -> io::Result<()> {
    match stream.read(&mut [0; 512]) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => stream.write_all(b"a"),
        _ => Err(ErrorKind::ConnectionReset.into()), // answered or closed: it was turned away
    }
}

/// Bytes of the stripped program.
pub fn size(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    if kind == Kind::Direct {
        return Ok(());
    }
    let program = rig.open(kind, 64)?.program()?;
    let stripped = rig.dir.join("stripped");
    let done = process::Command::new("strip").arg("-o").arg(&stripped).arg(&program).status();
    if !done.is_ok_and(|status| status.success()) {
        return Err(format!("strip {} failed", program.display()).into());
    }
    let length = fs::metadata(&stripped)?.len();
    table.put(kind, "stripped binary", "MB", Goal::Max(5.0), length as f64 / 1e6);
    Ok(())
}
