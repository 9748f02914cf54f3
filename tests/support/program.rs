//! The program as a user starts it: its own process, so that memory, descriptors, signals and log lines are its own.

use super::client::Client;
use super::fact::{Fact, Watched};
use super::upstream::Upstream;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

pub struct Program {
    pub addr: SocketAddr,
    child: Child,
    lines: Arc<Watched<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    log_over: Fact,
    file: PathBuf,
}

/// `server` and `endpoints` for these upstreams, named `a`, `b`...; `server` holds more keys of that section, each
/// on its own indented line.
pub fn yaml(upstreams: &[&Upstream], server: &str) -> String {
    let mut text = format!("server:\n  port: 0\n{server}healthCheck: {{interval: 60s}}\nendpoints:\n");
    for (name, upstream) in ["a", "b", "c"].iter().zip(upstreams) {
        text += &format!("  - {{name: {name}, address: 127.0.0.1, port: {}}}\n", upstream.addr().port());
    }
    text
}

impl Program {
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[])
    }

    /// Starts with more in the environment and waits for the line that names the address.
    pub fn start_with(yaml: &str, env: &[(&str, &str)]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}.yml", std::process::id()));
        std::fs::write(&file, yaml).expect("the build's own directory is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmproxy"));
        command.arg("-c").arg(&file).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program was built");

        let lines = Arc::new(Watched::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped above"));
        let mut stdout = BufReader::new(child.stdout.take().expect("piped above"));
        let log_over = Fact::new();
        let (log, over) = (lines.clone(), log_over.clone());
        let mut readers = vec![thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                log.update(|lines| lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            over.happen();
        })];
        let mut first = String::new();
        stdout.read_line(&mut first).expect("a first line");
        let addr = first.trim().rsplit("http://").next().and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("no address in {first:?}; log: {:?}", lines.read(Clone::clone)));
        // Read on, so that the program never meets a full pipe.
        readers.push(thread::spawn(move || drop(stdout.read_to_end(&mut Vec::new()))));
        Self { addr, child, lines, readers, log_over, file }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Waits for a log line that holds all of these.
    pub fn logged(&self, parts: &[&str]) -> String {
        self.lines.wait(&format!("a log line with {parts:?}"), |lines| {
            lines.iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned()
        })
    }

    /// All log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.lines.read(Clone::clone)
    }

    /// Resident memory in KiB.
    pub fn rss(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it ever was, in KiB.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the program lives").count()
    }

    /// What `ps` shows of it: its command line and the names of its threads.
    pub fn ps(&self) -> String {
        let of = format!("/proc/{}", self.child.id());
        let read = |file: &str| std::fs::read_to_string(file).expect("the program lives");
        let threads = std::fs::read_dir(format!("{of}/task")).expect("the program lives");
        let names = threads.flatten().map(|thread| read(&format!("{}/comm", thread.path().display())));
        names.fold(read(&format!("{of}/cmdline")), |all, name| all + " " + &name)
    }

    fn status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the program lives");
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Sends a signal by name: `TERM`, `INT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(sent.is_ok_and(|status| status.success()), "the program lives");
    }

    /// Puts another configuration into its file.
    pub fn rewrite(&self, yaml: &str) {
        std::fs::write(&self.file, yaml).expect("the build's own directory is writable");
    }

    /// Waits until so many log lines hold this.
    pub fn logged_times(&self, part: &str, times: usize) {
        self.lines.wait(&format!("{times} log lines with {part:?}"), |lines| {
            (lines.iter().filter(|line| line.contains(part)).count() >= times).then_some(())
        });
    }

    /// Waits for the end; the exit code.
    pub fn exit_code(mut self) -> Option<i32> {
        // A process cannot be waited for with a deadline, the end of its log can.
        self.log_over.wait("the program's end");
        self.child.wait().expect("our own child").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        drop(std::fs::remove_file(&self.file));
        if thread::panicking() {
            eprintln!("the program's log:\n{}", self.log().join("\n"));
        }
    }
}
