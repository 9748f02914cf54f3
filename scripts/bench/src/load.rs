//! Modes that ask as fast as answers come: one at a time, many at once, large bodies.

use crate::Fault;
use crate::http::{Client, PATIENCE, Wire};
use crate::mock::{Order, wait};
use crate::table::{Goal, Table, quantile};
use crate::target::{Kind, Rig};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// One request at a time on one kept connection.
pub fn latency(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    let door = rig.open(kind, 64)?;
    let request = Order::Json.request(0);
    let mut client = Client::new(door.addr);
    for _ in 0..200 {
        client.call(&request)?;
    }
    let mut samples = Vec::new();
    let end = Instant::now() + rig.span(3);
    while Instant::now() < end {
        let sent = Instant::now();
        client.call(&request)?;
        samples.push(sent.elapsed().as_nanos() as f64 / 1e3);
    }
    for (name, share) in [("one at a time, p50", 0.5), ("one at a time, p99", 0.99)] {
        table.put(kind, name, "µs", Goal::LocalResponse, quantile(&mut samples, share).ok_or("no samples")?);
    }
    Ok(())
}

/// Requests per second and CPU per request on 1, 16 and 64 connections.
pub fn rps(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    let door = rig.open(kind, 64)?;
    for connections in [1, 16, 64] {
        let fail = |e: io::Error| format!("{connections} connections: {e}");
        let mut load = Load::open(door.addr, connections).map_err(fail)?;
        load.run(Duration::from_millis(200)).map_err(fail)?; // warm up
        let (started, cpu) = (Instant::now(), door.cpu());
        let total = load.run(rig.span(3)).map_err(fail)?;
        let (elapsed, cpu) = (started.elapsed().as_secs_f64(), door.cpu() - cpu);
        let goal = if connections == 1 { Goal::LocalResponse } else { Goal::RatioMin(0.6) };
        table.put(kind, &format!("requests/s, {connections} connections"), "1/s", goal, total as f64 / elapsed);
        let used = cpu.as_secs_f64();
        let name = format!("CPU per request, {connections} connections (direct: load and mock)");
        table.put(kind, &name, "µs", Goal::LocalResponse, used * 1e6 / total as f64);
        let name = format!("core busy, {connections} connections (direct: load and mock)");
        table.put(kind, &name, "%", Goal::LocalResponse, used / elapsed * 100.0);
    }
    Ok(())
}

/// Connections with a request on each, served by one thread as their answers come.
struct Load {
    addr: SocketAddr,
    request: Vec<u8>,
    poll: Poll,
    wires: Vec<Wire>,
}

impl Load {
    fn open(addr: SocketAddr, connections: usize) -> io::Result<Load> {
        let mut load = Load { addr, request: Order::Json.request(0), poll: Poll::new()?, wires: Vec::new() };
        for at in 0..connections {
            let wire = load.asked(at)?;
            load.wires.push(wire);
        }
        Ok(load)
    }

    /// A new connection with a request on its way.
    fn asked(&self, at: usize) -> io::Result<Wire> {
        let mut wire = Wire::connect(self.addr)?;
        wire.send(&self.request)?;
        wire.stream.set_nonblocking(true)?;
        self.poll.registry().register(&mut SourceFd(&wire.stream.as_raw_fd()), Token(at), Interest::READABLE)?;
        Ok(wire)
    }

    /// Asks again after every answer until the time is over; how many answers came.
    fn run(&mut self, span: Duration) -> io::Result<u64> {
        let mut events = Events::with_capacity(1024);
        let (end, mut count) = (Instant::now() + span, 0);
        while Instant::now() < end {
            wait(&mut self.poll, &mut events, Some(PATIENCE))?;
            if events.is_empty() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for event in &events {
                let at = event.token().0;
                match self.wires[at].answer() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Ok((_, true)) => self.wires[at].send(&self.request)?,
                    Ok((_, false)) => self.wires[at] = self.asked(at)?,
                    Err(e) => return Err(e),
                }
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Answers and uploads of 1 MB and 16 MB, one after another.
pub fn bodies(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    let door = rig.open(kind, 64)?;
    for (label, size, goal) in [("1 MB", 1_000_000, Goal::LocalResponse), ("16 MB", 16_000_000, Goal::RatioMin(0.8))] {
        let ways = [("answer", Order::Body(size).request(0)), ("upload", Order::Json.request(size))];
        for (way, request) in ways {
            let name = format!("{label} {way}");
            let fail = |e: io::Error| format!("{name}: {e}");
            let mut client = Client::new(door.addr);
            client.call(&request).map_err(fail)?;
            let (started, span, mut count) = (Instant::now(), rig.span(2), 0);
            while started.elapsed() < span && count < 100_000 {
                let length = client.call(&request).map_err(fail)?;
                if way == "answer" && length != size as u64 {
                    return Err(format!("{name}: {length} bytes came").into());
                }
                count += 1;
            }
            let rate = (count * size) as f64 / 1e6 / started.elapsed().as_secs_f64();
            table.put(kind, &name, "MB/s", goal, rate);
        }
    }
    Ok(())
}
