//! Modes on streams of tokens: what each token is delayed by, and how fast a cancel travels.

use crate::Fault;
use crate::http::{PATIENCE, Wire, find};
use crate::mock::{Order, Seen, now_ns, spawn};
use crate::table::{Goal, Table, quantile};
use crate::target::{Kind, Rig};
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The events of one stream as they arrive.
pub struct Events {
    wire: Wire,
    carry: Vec<u8>,
}

impl Events {
    /// Sends the request and waits for the head of the answer.
    pub fn open(addr: SocketAddr, order: Order) -> io::Result<Events> {
        let mut wire = Wire::connect(addr)?;
        wire.send(&order.request(0))?;
        match wire.head()? {
            Some(head) if head.status() == 200 => Ok(Events { wire, carry: Vec::new() }),
            head => Err(io::Error::other(head.map_or("closed without an answer".to_owned(), |h| h.first))),
        }
    }

    /// Waits for the next piece; the age in nanoseconds of each event that it completed.
    pub fn ages(&mut self) -> io::Result<Vec<u64>> {
        let piece = self.wire.piece()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let now = now_ns();
        self.carry.extend_from_slice(piece);
        let mut ages = Vec::new();
        while let Some(end) = find(&self.carry, b"\n\n") {
            let digits = self.carry[..end].strip_prefix(b"data: {\"t\":").and_then(|rest| rest.get(..20));
            if let Some(sent) = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse::<u64>().ok()) {
                ages.push(now.saturating_sub(sent));
            }
            self.carry.drain(..end + 2);
        }
        Ok(ages)
    }

    /// Waits for so many events.
    pub fn wait_for(&mut self, count: usize) -> io::Result<()> {
        let mut got = 0;
        while got < count {
            got += self.ages()?.len();
        }
        Ok(())
    }
}

/// Time from the mock's write to the client's read, for each event but a stream's first.
pub fn tokens(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    for streams in [32_u64, 256] {
        let door = rig.open(kind, streams.max(64) as usize)?;
        let (tell, done) = channel();
        // all streams are open before the first sample and none ends before the last
        let from = Instant::now() + Duration::from_millis(500 + 4 * streams);
        let until = from + rig.span(5);
        for i in 0..streams {
            let (addr, tell) = (door.addr, tell.clone());
            let gap = Duration::from_micros(20_000 + i * 7_919 % 30_000);
            spawn(move || {
                std::thread::sleep(Duration::from_millis(3 * i));
                // nobody listens only when the mode has failed already
                let _ = tell.send(ages_between(addr, gap, from, until));
            })?;
        }
        let mut samples = Vec::new();
        for _ in 0..streams {
            let ages = done.recv_timeout(until - Instant::now() + PATIENCE)?;
            samples.extend(ages.map_err(|e| format!("{streams} streams: {e}"))?);
        }
        for (tail, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = quantile(&mut samples, share).ok_or("no event came")?;
            table.put(kind, &format!("token, {streams} streams, {tail}"), "µs", Goal::LocalResponse, value);
        }
    }
    Ok(())
}

fn ages_between(addr: SocketAddr, gap: Duration, from: Instant, until: Instant) -> io::Result<Vec<f64>> {
    let mut events = Events::open(addr, Order::Stream { count: 10_000, gap, id: 0 })?;
    events.wait_for(1)?;
    let mut samples = Vec::new();
    while Instant::now() < until {
        let ages = events.ages()?;
        if Instant::now() > from {
            samples.extend(ages.into_iter().map(|ns| ns as f64 / 1e3));
        }
    }
    Ok(samples)
}

/// Time from the client's close to the close that the mock sees, at every stage of a request.
pub fn cancel(rig: &Rig, kind: Kind, table: &mut Table) -> Result<(), Fault> {
    let door = rig.open(kind, 64)?;
    let mut id = 0;
    for stage in ["before the first byte", "before the first event", "between tokens", "in mid-body"] {
        let mut samples = Vec::new();
        for _ in 0..if rig.quick { 10 } else { 40 } {
            id += 1;
            let took = cancel_once(rig, door.addr, stage, id).map_err(|e| format!("{stage}: {e}"))?;
            samples.push(took.as_nanos() as f64 / 1e6);
            if took >= PATIENCE / 2 {
                break; // it does not notice at all: once is enough
            }
        }
        let p50 = quantile(&mut samples, 0.5).ok_or("no samples")?;
        let worst = quantile(&mut samples, 1.0).ok_or("no samples")?;
        table.put(kind, &format!("cancel {stage}, p50"), "ms", Goal::Max(5.0), p50);
        table.put(kind, &format!("cancel {stage}, worst"), "ms", Goal::Worst(250.0), worst);
    }
    Ok(())
}

fn cancel_once(rig: &Rig, addr: SocketAddr, stage: &str, id: u64) -> io::Result<Duration> {
    let gap = Duration::from_millis(20);
    let silent = |stream: bool| -> io::Result<Wire> {
        let mut wire = Wire::connect(addr)?;
        let text = String::from_utf8_lossy(&Order::Silent(id).request(0)).into_owned();
        // the same length, so that nothing else changes
        let text = if stream { text.replace(r#""stream":false"#, r#""stream": true"#) } else { text };
        wire.send(text.as_bytes())?;
        Ok(wire)
    };
    let wire = match stage {
        "before the first byte" => silent(false)?,
        "before the first event" => silent(true)?,
        "between tokens" => {
            let mut events = Events::open(addr, Order::Stream { count: 500, gap, id })?;
            events.wait_for(3)?;
            events.wire
        }
        _ => {
            let mut wire = Wire::connect(addr)?;
            wire.send(&Order::Stall(id).request(0))?;
            wire.head()?;
            let mut got = 0;
            while got < 60_000 {
                got += wire.piece()?.ok_or(io::ErrorKind::UnexpectedEof)?.len();
            }
            wire
        }
    };
    let mut began = false;
    while !began {
        let seen = rig.mock.seen.recv_timeout(PATIENCE).map_err(|_| io::Error::other("never reached the upstream"))?;
        began = matches!(seen, Seen::Began(it) if it == id);
    }
    let closed = Instant::now();
    drop(wire);
    let deadline = closed + PATIENCE / 2;
    while let Ok(seen) = rig.mock.seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match seen {
            Seen::Closed(it, at) if it == id => return Ok(at.saturating_duration_since(closed)),
            _ => {} // an earlier one that came too late
        }
    }
    Ok(PATIENCE / 2)
}
