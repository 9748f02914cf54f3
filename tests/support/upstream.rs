//! A model server that misbehaves on demand. Serves health, models and props by itself, each on a connection of its
//! own, so that scripts never meet one that a probe has used; everything else by script. Keeps what it received. Knows nothing of the proxy under test.

use super::blackhole::Blackhole;
use super::fact::{DEADLINE, Fact, Latch, Watched};
use super::received::{Received, read_body, read_head};
use super::script::{Script, Step};
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use socket2::{Domain, SockRef, Socket, Type};
use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How unscripted requests are met.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Health, models and props answer; what else has no script is the test's fault.
    Well,
    /// 503 `Loading model` on every path, scripts stay for later.
    Loading,
    /// Health, models and props are read and never answered.
    HangingHealth,
}

pub struct Upstream {
    shared: Arc<Shared>,
    addr: SocketAddr,
    /// Bound but not listening: keeps the port ours while the server is down, so that connects are refused.
    _port: Socket,
    server_handle: Option<ServerConfig>,
}

struct ServerConfig {
    listener: Arc<TcpListener>,
    accepting: JoinHandle<()>,
}

type Shared = Watched<State>;

struct State {
    mood: Mood,
    once: HashMap<String, VecDeque<Script>>,
    always: HashMap<String, Script>,
    received: Vec<Received>,
    taken: HashMap<String, usize>,
    sockets: Vec<Weak<TcpStream>>,
    threads: Vec<JoinHandle<()>>,
    problems: Vec<String>,
}

impl Upstream {
    /// Starts one that serves these models.
    pub fn serving(models: &[&str]) -> Self {
        let upstream = Self::start();
        upstream.set_models(models);
        upstream
    }

    /// Starts one that cannot list models.
    pub fn start() -> Self {
        let port = reusable();
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let addr = port.local_addr().expect("bound above").as_socket().expect("an IP socket");
        let mut always = HashMap::new();
        always.insert("/health".into(), Script::raw(include_bytes!("../data/health_ok.raw")));
        let state = State {
            mood: Mood::Well,
            once: HashMap::new(),
            always,
            received: Vec::new(),
            taken: HashMap::new(),
            sockets: Vec::new(),
            threads: Vec::new(),
            problems: Vec::new(),
        };
        let mut upstream = Self { shared: Arc::new(Watched::new(state)), addr, _port: port, server_handle: None };
        upstream.revive();
        upstream
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn set_models(&self, models: &[&str]) {
        let entry = |id: &&str| format!(r#"{{"id":"{id}","object":"model","owned_by":"llamacpp","created":1}}"#);
        let data = models.iter().map(entry).collect::<Vec<_>>().join(",");
        self.always("/v1/models", Script::json(format!(r#"{{"object":"list","data":[{data}]}}"#)));
    }

    /// Plays the script for the next request to this path.
    pub fn on(&self, path: &str, script: Script) {
        self.shared.update(|state| state.once.entry(path.into()).or_default().push_back(script));
    }

    /// Plays the script for every request to this path that has no own one.
    pub fn always(&self, path: &str, script: Script) {
        self.shared.update(|state| state.always.insert(path.into(), script));
    }

    pub fn set_mood(&self, mood: Mood) {
        self.shared.update(|state| state.mood = mood);
    }

    /// Waits for the next request to this path that was not yet taken.
    pub fn take(&self, path: &str) -> Received {
        self.shared.wait(&format!("a request to {path}"), |state| {
            let taken = *state.taken.get(path).unwrap_or(&0);
            let next = state.received.iter().filter(|r| r.path() == path).nth(taken).cloned();
            if next.is_some() {
                state.taken.insert(path.into(), taken + 1);
            }
            next
        })
    }

    /// Requests to this path so far.
    pub fn count(&self, path: &str) -> usize {
        self.shared.read(|state| state.received.iter().filter(|r| r.path() == path).count())
    }

    /// Waits until this path was asked so often.
    pub fn wait_count(&self, path: &str, n: usize) {
        self.shared.wait(&format!("request {n} to {path}"), |state| {
            (state.received.iter().filter(|r| r.path() == path).count() >= n).then_some(())
        });
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.read(|state| state.sockets.len())
    }

    /// Dies like a killed process: every connection closes, new ones are refused.
    pub fn kill(&mut self) {
        self.refuse();
        let sockets: Vec<_> = self.shared.read(|state| state.sockets.iter().filter_map(Weak::upgrade).collect());
        for socket in sockets {
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    /// New connections are refused; those open live on.
    pub fn refuse(&mut self) {
        let Some(server_handle) = self.server_handle.take() else { return };
        // Wakes the blocked accept with an error.
        SockRef::from(&*server_handle.listener).shutdown(Shutdown::Both).expect("a listening socket");
        server_handle.accepting.join().expect("the accept loop does not panic");
    }

    /// Its host goes dark: connections that are open live on, further ones get no answer at all. Back with `revive`, once
    /// what is returned was dropped.
    pub fn go_dark(&mut self) -> Blackhole {
        self.refuse();
        Blackhole::at(self.addr)
    }

    /// Listens (again) on its port.
    pub fn revive(&mut self) {
        let socket = reusable();
        socket.bind(&self.addr.into()).expect("the port is kept by `_port`");
        socket.listen(128).expect("a bound socket");
        let listener = Arc::new(TcpListener::from(socket));
        let (own, shared) = (listener.clone(), self.shared.clone());
        let accepting = thread::spawn(move || {
            while let Ok((socket, _)) = own.accept() {
                serve(&shared, socket);
            }
        });
        self.server_handle = Some(ServerConfig { listener, accepting });
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
        let threads = self.shared.update(|state| std::mem::take(&mut state.threads));
        let panicked = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        let (problems, unused) = self.shared.read(|state| {
            let left: Vec<_> =
                state.once.iter().filter(|(_, scripts)| !scripts.is_empty()).map(|(path, _)| path.clone()).collect();
            (state.problems.clone(), left)
        });
        if !thread::panicking() {
            assert!(problems.is_empty(), "fake upstream: {problems:?}");
            assert!(unused.is_empty(), "scripts never played for: {unused:?}");
            assert_eq!(panicked, 0, "threads of a fake upstream panicked");
        }
    }
}

fn reusable() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a TCP socket");
    socket.set_reuse_address(true).expect("an option every TCP socket has");
    socket
}

/// Two threads per connection: one reads (and so hears the peer leave), one plays.
fn serve(shared: &Arc<Shared>, socket: TcpStream) {
    socket.set_nodelay(true).expect("an option every TCP socket has");
    let socket = Arc::new(socket);
    let number = shared.update(|state| {
        state.sockets.push(Arc::downgrade(&socket));
        state.sockets.len() - 1
    });
    let (to_player, scripts) = unbounded();
    let (alive, ended) = bounded(0);
    let (playing, played) = bounded(0);
    let (ours, closed) = (Arc::new(AtomicBool::new(false)), Fact::new());
    let reader =
        Reader { number, shared: shared.clone(), socket: socket.clone(), ours: ours.clone(), closed: closed.clone() };
    let listening = thread::spawn(move || {
        let _alive = alive;
        reader.run(&to_player, &played);
    });
    let shared_too = shared.clone();
    let acting = thread::spawn(move || {
        let _playing = playing;
        let mut scripts = scripts.into_iter();
        let over = scripts.find_map(|script| play(&script, &socket, &ended).err()).unwrap_or(Over::Closed);
        if let Over::Unwritable = over {
            closed.happen();
        }
        ours.store(true, Ordering::SeqCst);
        let side = match over {
            // The unread body is drained by the reader, else the kernel would turn our close into a reset.
            Over::Early => Shutdown::Write,
            // No FIN: with a linger of 0 the last close sends RST.
            Over::Reset => Shutdown::Read,
            Over::Closed | Over::Unwritable | Over::Forgotten => Shutdown::Both,
        };
        drop(socket.shutdown(side));
        if let Over::Forgotten = over {
            shared_too.update(|state| state.problems.push("a latch or stall outlived the deadline".into()));
        }
    });
    shared.update(|state| state.threads.extend([listening, acting]));
}

struct Reader {
    number: usize,
    shared: Arc<Shared>,
    socket: Arc<TcpStream>,
    /// Set before we close, so that `closed` tells of the peer alone.
    ours: Arc<AtomicBool>,
    closed: Fact,
}

impl Reader {
    fn run(&self, to_player: &Sender<Script>, played: &Receiver<()>) {
        let mut from = BufReader::new(&*self.socket);
        while let Ok(Some(lines)) = read_head(&mut from) {
            let mut request =
                Received { connection: self.number, lines, body: Vec::new(), closed: self.closed.clone() };
            let script = script_for(&self.shared, request.path());
            let early = script.early;
            if !early {
                match read_body(&request.lines, &mut from) {
                    Ok(body) => request.body = body,
                    Err(_) => break,
                }
            }
            self.shared.update(|state| state.received.push(request));
            drop(to_player.send(script));
            if early {
                // Disconnected when the player is through.
                let _ = played.recv();
                drop(io::copy(&mut from, &mut io::sink()));
                break;
            }
        }
        if !self.ours.load(Ordering::SeqCst) {
            self.closed.happen();
        }
    }
}

fn script_for(shared: &Shared, path: &str) -> Script {
    shared.update(|state| {
        let own = matches!(path, "/health" | "/v1/models" | "/props");
        match state.mood {
            Mood::Loading => return Script::raw(include_bytes!("../data/chat_loading.raw")).cut(),
            Mood::HangingHealth if own => return Script::new().stall(),
            _ => {}
        }
        let scripted = state.once.get_mut(path).and_then(VecDeque::pop_front);
        if let Some(script) = scripted.or_else(|| state.always.get(path).cloned()) {
            return if own { script.closing() } else { script };
        }
        if own {
            return Script::error(501, "not here").closing();
        }
        state.problems.push(format!("no script for {path}"));
        Script::error(501, "not scripted")
    })
}

/// Why a connection gets no further script.
enum Over {
    /// By the script, or by the peer while it waited.
    Closed,
    /// By the peer while the script wrote.
    Unwritable,
    Reset,
    /// Answered with the body unread.
    Early,
    /// A latch was never opened.
    Forgotten,
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self::Unwritable
    }
}

fn play(script: &Script, mut socket: &TcpStream, ended: &Receiver<()>) -> Result<(), Over> {
    for step in &script.steps {
        match step {
            Step::Bytes(bytes) => socket.write_all(bytes)?,
            Step::Latch(latch) => wait(latch, ended)?,
            Step::Stall => wait(&Latch::new(), ended)?,
            Step::Cut => return Err(Over::Closed),
            Step::Reset => {
                SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
                return Err(Over::Reset);
            }
            Step::Endless(bytes) => loop {
                socket.write_all(bytes)?;
            },
        }
    }
    if script.early { Err(Over::Early) } else { Ok(()) }
}

fn wait(latch: &Latch, ended: &Receiver<()>) -> Result<(), Over> {
    select! {
        recv(latch.channel()) -> _ => Ok(()),
        recv(ended) -> _ => Err(Over::Closed),
        default(DEADLINE) => Err(Over::Forgotten),
    }
}
