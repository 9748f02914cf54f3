//! The process: what each command does, what is printed where, signals and the service manager.

use crate::app::{self, Running, StartError};
use crate::cli::{Command, HELP, Options};
use crate::config::load::{self, LoadError};
use crate::util::signals::{self, Signal};
use crate::util::systemd::{Notifier, watchdog_interval};
use crate::util::time;
use crate::util::units::print_size;

use crate::config::features::DEMO;
use crate::config::{Config, Endpoint, Server, print};
use crate::demo::{self, Demo};
use crate::discover;
use crate::observe::log_writer::{self, LoggerHandle};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::fmt::Display;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

/// `sysexits.h`: the command line is wrong.
pub const USAGE: u8 = 64;
const OS_ERROR: u8 = 71;
const CONFIG: u8 = 78;

/// How often the process looks whether the event loop still runs.
const TICK: Duration = Duration::from_secs(1);
/// How long the last log lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// An exit code and its reason.
struct End(u8, String);

impl End {
    fn new(code: u8, why: impl Display) -> Self {
        Self(code, why.to_string())
    }
}

impl From<LoadError> for End {
    fn from(error: LoadError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

impl From<StartError> for End {
    fn from(error: StartError) -> Self {
        let code = match error {
            StartError::Bind(..) => OS_ERROR,
            StartError::Routes(_) | StartError::ConfigControl(_) => CONFIG,
            StartError::Jobs(..) | StartError::System(_) => 1,
        };
        Self::new(code, error)
    }
}

/// Runs a command; the result is the exit code.
pub fn run(command: Command) -> u8 {
    let done = match command {
        Command::Help => print(HELP),
        Command::Version => print(concat!("llmproxy ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Check(options) => check(&options),
        Command::PrintConfig(options) => print_config(&options),
        Command::Discover(_) => found().and_then(|found| print(&discover::configuration(&found))),
        Command::HealthCheck(options) => healthcheck(&options),
        Command::Demo(options) => run_demo(&options),
        Command::Serve(options) => serve(&options),
    };
    match done {
        Ok(()) => 0,
        Err(End(code, why)) => {
            // After the logger has started, its thread owns stderr; what it holds comes first.
            let _ = writeln!(std::io::stderr(), "llmproxy: {why}");
            code
        }
    }
}

/// A closed or full stdout is no reason to end.
fn print(text: &str) -> Result<(), End> {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

/// A configuration, its source and its warnings.
struct Loaded {
    config: Config,
    file: Option<PathBuf>,
    warnings: Vec<String>,
    /// The file is one of routes (format 003): the page adds its routes.
    is_paged: bool,
    /// The endpoints are what discovery found.
    is_found: bool,
}

impl Loaded {
    fn new(config: Config, file: Option<PathBuf>, warnings: Vec<String>) -> Self {
        Self { config, file, warnings, is_paged: false, is_found: false }
    }

    /// The configuration without the routes that the page adds.
    fn base(&self) -> Config {
        let mut base = self.config.clone();
        if self.is_paged {
            base.endpoints.clear();
            base.models.clear();
        }
        base
    }
}

fn configuration(options: &Options) -> Result<Loaded, End> {
    let mut loaded = if let Some(file) = load::find(options.config.as_deref()) {
        let loaded = load::load(&file)?;
        let is_paged = loaded.is_paged;
        Loaded { is_paged, ..Loaded::new(loaded.config, Some(file), loaded.warnings) }
    } else if let Some(config) = load::from_environment() {
        Loaded::new(config?, None, Vec::new())
    } else {
        let (keyed, open): (Vec<_>, Vec<_>) = found()?.into_iter().partition(|server| server.wants_key);
        if open.is_empty() {
            return Err(End::new(CONFIG, discover::LOCKED));
        }
        let endpoints = open.into_iter().map(|server| server.endpoint).collect();
        let config = Config { endpoints, ..Config::default() };
        let names: Vec<_> = config.endpoints.iter().map(|e| format!("{} ({})", e.name, e.base.port)).collect();
        let is_found = true;
        let said = format!("no configuration file; serving what was found on this machine: {}", names.join(", "));
        let locked = keyed.iter().map(|server| {
            format!(
                "the model server on port {} asks for a key; `llmproxy --discover` shows how to add it",
                server.endpoint.base.port
            )
        });
        Loaded { is_found, ..Loaded::new(config, None, std::iter::once(said).chain(locked).collect()) }
    };
    override_by(options, &mut loaded.config)?;
    // The user did not choose what discovery found: its port is merely in use.
    if !loaded.is_found {
        let place = loaded.file.as_ref().map_or("environment".into(), |file| file.display().to_string());
        load::refuse_own_addresses(&place, &loaded.config)?;
    }
    Ok(loaded)
}

/// Limits bodies to a quarter of the memory: what is freed does not go back to the system at once.
fn fit_memory(server: &mut Server, memory: Option<u64>) -> Option<String> {
    let mib = memory? >> 20;
    let room = (mib / 4).max(1) << 20;
    if room >= server.body_memory {
        return None;
    }
    let said = format!(
        "server.bodyMemory lowered from {} to {}: there are {mib}MiB of memory",
        print_size(server.body_memory),
        print_size(room)
    );
    server.body_memory = room;
    server.max_body = server.max_body.min(room);
    Some(said)
}

fn override_by(options: &Options, config: &mut Config) -> Result<(), End> {
    Ok(options.overrides.apply(config, &load::env).map_err(LoadError::Bad)?)
}

fn found() -> Result<Vec<discover::Server>, End> {
    let found = discover::look();
    if found.is_empty() {
        return Err(End::new(CONFIG, discover::NOTHING));
    }
    Ok(found)
}

fn print_config(options: &Options) -> Result<(), End> {
    let mut loaded = configuration(options)?;
    // The routes of the page are in the text already.
    loaded.config.admin.enabled &= !loaded.is_paged;
    print(&print::yaml(&loaded.config))
}

fn check(options: &Options) -> Result<(), End> {
    let loaded = configuration(options)?;
    for warning in &loaded.warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    print(&print::summary(&loaded.config))
}

/// Asks the `/health` of the proxy that this configuration describes; anything but 200 is a failure.
fn healthcheck(options: &Options) -> Result<(), End> {
    let mut server = match load::find(options.config.as_deref()) {
        Some(file) => load::load(&file)?.config,
        None => Config::default(),
    };
    override_by(options, &mut server)?;
    let host = match server.server.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let proxy = Endpoint::plain("llmproxy", host, server.server.port);
    match discover::get(&proxy, "/health") {
        Some((200, _)) => Ok(()),
        Some((status, _)) => Err(End::new(1, format!("/health answers {status}"))),
        None => Err(End::new(1, format!("nothing answers on {host}:{}", server.server.port))),
    }
}

fn run_demo(options: &Options) -> Result<(), End> {
    DEMO.require().map_err(|absent| End::new(CONFIG, absent))?;
    let demo = demo::start().map_err(|e| End::new(1, format!("the demo servers cannot start: {e}")))?;
    let mut config = demo::config(&demo);
    override_by(options, &mut config)?;
    serve_until_signal(options, Loaded::new(config, None, Vec::new()), Some(&demo))
}

fn serve(options: &Options) -> Result<(), End> {
    serve_until_signal(options, configuration(options)?, None)
}

fn serve_until_signal(options: &Options, mut loaded: Loaded, demo: Option<&Demo>) -> Result<(), End> {
    let memory = load::memory_limit();
    loaded.warnings.extend(fit_memory(&mut loaded.config.server, memory));
    let log = log_writer::install(&loaded.config.log);
    let signals = signals::listen().map_err(|e| End::new(1, format!("cannot listen for signals: {e}")))?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    if let Some(file) = &loaded.file {
        log::info!("configuration: {}", file.display());
    }
    for endpoint in print::endpoints(&loaded.config) {
        log::info!("endpoint {endpoint}");
    }
    let started = app::start_on(loaded.base(), handed_over(), load::descriptor_limit());
    let running = started.inspect_err(|_| flush_logs(log))?;
    let source = (options.clone(), loaded.file.clone());
    let read = move || {
        let (options, Some(file)) = &source else {
            let why = "it was started without a configuration file; there is nothing to read again";
            return Err(End::new(CONFIG, why));
        };
        // The same file, even if one that is looked for earlier has appeared.
        let mut again = configuration(&Options { config: Some(file.clone()), ..options.clone() })?;
        fit_memory(&mut again.config.server, memory);
        Ok(again)
    };
    let for_page = read.clone();
    running.read_by(Box::new(move || {
        let loaded = for_page().map_err(|End(_, why)| why)?;
        loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        log_writer::install(&loaded.config.log);
        Ok(loaded.base())
    }));
    for addr in running.addrs() {
        print(&format!("llmproxy {} listening on http://{addr}\n", env!("CARGO_PKG_VERSION")))?;
    }
    let link = running.admin_link();
    match (demo, &link) {
        (Some(demo), _) => print(&demo::banner(running.addr(), link.as_deref().unwrap_or_default(), demo))?,
        // Never the log: the link holds the token.
        (None, Some(link)) => print(&format!("llmproxy admin page: {link}\n"))?,
        (None, None) => {}
    }
    let service = Notifier::new(load::env("NOTIFY_SOCKET"));
    service.ready();
    let end = watch(&running, &signals, &service, &read);
    service.stopping();
    if end.is_ok() {
        log::info!("stopping: requests in progress may finish");
        running.stop();
    }
    flush_logs(log);
    end
}

/// The loop of the main thread: signals, and whether the event loop still runs.
fn watch(
    running: &Running,
    signals: &Receiver<Signal>,
    service: &Notifier,
    load: &dyn Fn() -> Result<Loaded, End>,
) -> Result<(), End> {
    let watchdog = watchdog_interval(load::env("WATCHDOG_USEC"), load::env("WATCHDOG_PID"));
    let tick = watchdog.map_or(TICK, |interval| interval.min(TICK));
    let mut beats = running.server_handle().beats();
    loop {
        match signals.recv_timeout(tick) {
            Ok(Signal::Stop) => return Ok(()),
            Ok(Signal::Reload) => {
                service.reloading();
                reload(running, load());
                service.ready();
            }
            Err(RecvTimeoutError::Timeout) if running.has_died() => {
                return Err(End::new(1, "the listener thread died; exiting so the service manager can restart"));
            }
            Err(RecvTimeoutError::Timeout) => {
                if watchdog.is_some() {
                    let now = running.server_handle().beats();
                    if now != std::mem::replace(&mut beats, now) {
                        service.watchdog();
                    }
                    running.server_handle().nudge();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Err(End::new(1, "cannot listen for signals any more")),
        }
    }
}

fn reload(running: &Running, loaded: Result<Loaded, End>) {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(End(_, why)) => {
            running.note_failed_reload();
            return log::error!("the configuration was not reloaded, the old one stays in force: {why}");
        }
    };
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let format = running.snapshot().config.log.format != loaded.config.log.format;
    log_writer::install(&loaded.config.log);
    let mut later = match running.reload(loaded.base()) {
        Ok(later) => later,
        Err(why) => {
            running.note_failed_reload();
            return log::error!("the configuration was not reloaded, the old one stays in force: {why}");
        }
    };
    later.extend(format.then_some("log.format"));
    match later.as_slice() {
        [] => log::info!("the configuration was reloaded"),
        later => log::warn!("the configuration was reloaded; a restart is needed for {}", later.join(", ")),
    }
}

/// The main listener, when systemd has bound it (sd_listen_fds(3)).
fn handed_over() -> Option<TcpListener> {
    listenfd::ListenFd::from_env().take_tcp_listener(0).ok().flatten()
}

fn flush_logs(log: LoggerHandle) {
    let _ = log.flush(time::now() + FLUSH_TIMEOUT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_take_a_quarter_of_a_small_memory() {
        // E8
        let after = |memory: Option<u64>| {
            let mut server = Server::default();
            let said = fit_memory(&mut server, memory);
            (server.body_memory >> 20, server.max_body >> 20, said)
        };
        let said = "server.bodyMemory lowered from 256MiB to 16MiB: there are 64MiB of memory";
        assert_eq!(after(Some(64 << 20)), (16, 16, Some(said.into())));
        assert_eq!(after(Some(2 << 30)), (256, 32, None));
        assert_eq!(after(Some(u64::MAX)), (256, 32, None));
        assert_eq!(after(Some(100)).0, 1);
        assert_eq!(after(None), (256, 32, None));
    }
}
