//! What is measured: a direct connection, nginx, llmproxy. Starts each afresh on its core with a configuration of the
//! benchmark's own, reads its memory and CPU time from /proc, and ends it. Knows nothing of the figures.

use crate::Fault;
use crate::http::{Client, PATIENCE};
use crate::mock::{Mock, Order};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Nginx,
    Llmproxy,
}

pub const KINDS: [Kind; 3] = [Kind::Direct, Kind::Nginx, Kind::Llmproxy];

/// Everything a mode needs to run.
pub struct Rig {
    pub mock: Mock,
    /// The llmproxy to measure; `None` measures the yardstick alone.
    pub bin: Option<PathBuf>,
    pub dir: PathBuf,
    pub cpu: String,
    pub quick: bool,
}

/// A running target; ended when dropped.
pub struct Door {
    pub addr: SocketAddr,
    child: Option<Child>,
}

impl Rig {
    /// How long one measurement lasts.
    pub fn span(&self, full: u64) -> Duration {
        if self.quick { Duration::from_secs(1) } else { Duration::from_secs(full) }
    }

    /// Starts a target and waits until it has answered a request through to the mock.
    pub fn open(&self, kind: Kind, workers: usize) -> Result<Door, Fault> {
        let addr = free_port()?.local_addr()?;
        let mut door = match kind {
            Kind::Direct => Door { addr: self.mock.addr, child: None },
            Kind::Nginx => Door { addr, child: Some(self.nginx(addr)?) },
            Kind::Llmproxy => Door { addr, child: Some(self.llmproxy(addr, workers)?) },
        };
        let request = Order::Json.request(0);
        let started = Instant::now();
        while let Err(e) = Client::new(door.addr).call(&request) {
            let ended = door.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(2).collect();
                return Err(format!("{kind:?} does not answer ({e}); its last words: {last:?}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(door)
    }

    fn nginx(&self, addr: SocketAddr) -> Result<Child, Fault> {
        let (dir, log, mock) = (self.dir.display(), self.log(), self.mock.addr);
        // one process, no master: what is measured is the worker, and nothing is left behind when it is killed
        let text = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {log} error;
            events {{ worker_connections 8192; }}
            http {{
                access_log off; keepalive_requests 100000000; client_max_body_size 64m;
                client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
                uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
                upstream mock {{ server {mock}; keepalive 512; keepalive_requests 100000000; }}
                server {{
                    listen {addr};
                    location / {{
                        proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection \"\";
                        proxy_buffering off; proxy_request_buffering off;
                    }}
                }}
            }}",
            log = log.display()
        );
        let conf = self.dir.join("nginx.conf");
        fs::write(&conf, text)?;
        let mut command = self.pinned("nginx".as_ref());
        command.arg("-p").arg(&self.dir).arg("-e").arg(log).arg("-c").arg(&conf);
        self.spawn(command)
    }

    fn llmproxy(&self, addr: SocketAddr, workers: usize) -> Result<Child, Fault> {
        let bin = self.bin.as_ref().ok_or("no llmproxy was given")?;
        let text = format!(
            "server: {{host: 127.0.0.1, port: {port}, workers: {workers}, maxConnections: 4096, perClient: 4096}}\n\
             endpoints:\n  - {{name: mock, address: 127.0.0.1, port: {mock}}}\n\
             log: {{access: false, level: warn}}\n",
            port = addr.port(),
            mock = self.mock.addr.port()
        );
        let conf = self.dir.join("llmproxy.yml");
        fs::write(&conf, text)?;
        let mut command = self.pinned(bin);
        command.arg("-c").arg(&conf);
        self.spawn(command)
    }

    /// The program on the proxy's core; the kernel ends it when the benchmark dies, however that happens.
    fn pinned(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c", &self.cpu]).arg(program);
        command
    }

    fn spawn(&self, mut command: Command) -> Result<Child, Fault> {
        let log = File::create(self.log())?;
        Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Door {
    /// User and system time so far; for a direct connection that of load and mock, which are this process.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // fields 14 and 15, in ticks of 1/100 s, counted after the name, which may hold spaces
        let fields = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(12);
        Duration::from_millis(10 * fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>())
    }

    /// Resident memory in MB (10^6).
    pub fn rss(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
        kib * 1024.0 / 1e6
    }

    /// The program's file.
    pub fn program(&self) -> io::Result<PathBuf> {
        fs::canonicalize(format!("/proc/{}/exe", self.id()))
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.id())).unwrap_or_default()
    }

    fn id(&self) -> u32 {
        self.child.as_ref().map_or_else(process::id, Child::id)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill(); // fails only when it has ended already
            let _ = child.wait();
        }
    }
}

/// A loopback port below the range that outgoing connections are given, so that none of the load's takes it.
pub fn free_port() -> Result<TcpListener, Fault> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..4_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (process::id() as u16 % 97 * 101 + step) % 10_000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener);
        }
    }
    Err("no free port between 20000 and 30000".into())
}
