//! The process: what each command does, what is printed where, signals and the service manager.

use crate::app::{self, CONFIG, Failed, Running, Surroundings};
use crate::cli::{Command, HELP, Options};
use crate::config::features::DEMO;
use crate::config::load::{self, LoadError};
use crate::config::{Config, Endpoint, Server, print};
use crate::demo::{self, Demo};
use crate::discover;
use crate::observe::log_writer;
use crate::reload::Read;
use crate::util::signals::{self, Signal};
use crate::util::system;
use crate::util::systemd::{Notifier, watchdog_interval};
use crate::util::time;
use crate::util::units::print_size;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// `sysexits.h`: the command line is wrong.
pub const USAGE: u8 = 64;

/// How often the process looks whether the event loop still runs.
const TICK: Duration = Duration::from_secs(1);
/// How long the last log lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl From<LoadError> for Failed {
    fn from(error: LoadError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

/// Runs a command; the result is the exit code.
pub fn run(command: Command, options: &Options) -> u8 {
    let done = match command {
        Command::Help => print(HELP),
        Command::Version => print(concat!("llmproxy ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Check => check(options),
        Command::PrintConfig => print_config(options),
        Command::Discover => found().and_then(|found| print(&discover::configuration(&found))),
        Command::HealthCheck => healthcheck(options),
        Command::Demo => run_demo(options),
        Command::Serve => configuration(options).and_then(|loaded| serve(options, loaded, None)),
    };
    match done {
        Ok(()) => 0,
        Err(Failed(code, why)) => {
            // After the logger has started, its thread owns stderr; what it holds comes first.
            let _ = writeln!(std::io::stderr(), "llmproxy: {why}");
            code
        }
    }
}

/// A closed or full stdout is no reason to end.
fn print(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

/// A configuration, its source and its warnings.
#[derive(Default)]
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

fn configuration(options: &Options) -> Result<Loaded, Failed> {
    let mut loaded = if let Some(file) = load::find(options.config.as_deref()) {
        let load::Loaded { config, warnings, is_paged, .. } = load::load(&file)?;
        Loaded { config, file: Some(file), warnings, is_paged, is_found: false }
    } else if let Some(config) = load::from_environment() {
        Loaded { config: config?, ..Loaded::default() }
    } else {
        let (keyed, open): (Vec<_>, Vec<_>) = found()?.into_iter().partition(|server| server.wants_key);
        if open.is_empty() {
            return Err(Failed::new(CONFIG, discover::LOCKED));
        }
        let endpoints = open.into_iter().map(|server| server.endpoint).collect();
        let config = Config { endpoints, ..Config::default() };
        let names: Vec<_> = config.endpoints.iter().map(|e| format!("{} ({})", e.name, e.base.port)).collect();
        let mut warnings =
            vec![format!("no configuration file; serving what was found on this machine: {}", names.join(", "))];
        warnings.extend(keyed.iter().map(|server| {
            let port = server.endpoint.base.port;
            format!("the model server on port {port} asks for a key; `llmproxy --discover` shows how to add it")
        }));
        Loaded { config, warnings, is_found: true, ..Loaded::default() }
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

fn override_by(options: &Options, config: &mut Config) -> Result<(), Failed> {
    Ok(options.overrides.apply(config, &load::env).map_err(LoadError::Bad)?)
}

fn found() -> Result<Vec<discover::Server>, Failed> {
    let found = discover::look();
    if found.is_empty() {
        return Err(Failed::new(CONFIG, discover::NOTHING));
    }
    Ok(found)
}

fn print_config(options: &Options) -> Result<(), Failed> {
    let mut loaded = configuration(options)?;
    // The routes of the page are in the text already.
    loaded.config.admin.enabled &= !loaded.is_paged;
    print(&print::yaml(&loaded.config))
}

fn check(options: &Options) -> Result<(), Failed> {
    let loaded = configuration(options)?;
    for warning in &loaded.warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    print(&print::summary(&loaded.config))
}

/// Asks the `/health` of the proxy that this configuration describes; anything but 200 is a failure.
fn healthcheck(options: &Options) -> Result<(), Failed> {
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
        Some((status, _)) => Err(Failed::new(1, format!("/health answers {status}"))),
        None => Err(Failed::new(1, format!("nothing answers on {host}:{}", server.server.port))),
    }
}

fn run_demo(options: &Options) -> Result<(), Failed> {
    DEMO.require().map_err(|absent| Failed::new(CONFIG, absent))?;
    let demo = demo::start().map_err(|e| Failed::new(1, format!("the demo servers cannot start: {e}")))?;
    let mut config = demo::config(&demo);
    override_by(options, &mut config)?;
    serve(options, Loaded { config, ..Loaded::default() }, Some(&demo))
}

fn serve(options: &Options, mut loaded: Loaded, demo: Option<&Demo>) -> Result<(), Failed> {
    system::forbid_dumps();
    let memory = load::memory_limit();
    loaded.warnings.extend(fit_memory(&mut loaded.config.server, memory));
    let log = log_writer::install(&loaded.config.log);
    let signals = signals::listen().map_err(|e| Failed::new(1, format!("cannot listen for signals: {e}")))?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    if let Some(file) = &loaded.file {
        log::info!("configuration: {}", file.display());
    }
    for endpoint in print::endpoints(&loaded.config) {
        log::info!("endpoint {endpoint}");
    }
    let (options, file, base) = (options.clone(), loaded.file.clone(), loaded.base());
    let read = file.map(|file| -> Read {
        Box::new(move || {
            // The same file, even if one that is looked for earlier has appeared.
            let options = Options { config: Some(file.clone()), ..options.clone() };
            let mut again = configuration(&options).map_err(|Failed(_, why)| why)?;
            fit_memory(&mut again.config.server, memory);
            again.warnings.iter().for_each(|warning| log::warn!("{warning}"));
            log_writer::install(&again.config.log);
            Ok(again.base())
        })
    });
    // The main listener, when systemd has bound it (sd_listen_fds(3)).
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0).ok().flatten();
    let surroundings = Surroundings { listener, files: Some(system::descriptor_limit()), read };
    let flush_logs = || {
        let _ = log.flush(time::now() + FLUSH_TIMEOUT);
    };
    let running = app::start_in(base, surroundings).inspect_err(|_| flush_logs())?;
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
    let end = watch(&running, &signals, &service);
    service.stopping();
    if end.is_ok() {
        log::info!("stopping: requests in progress may finish");
        running.stop();
    }
    flush_logs();
    end
}

/// The loop of the main thread: signals, and whether the event loop still runs.
fn watch(running: &Running, signals: &Receiver<Signal>, service: &Notifier) -> Result<(), Failed> {
    let watchdog = watchdog_interval(load::env("WATCHDOG_USEC"), load::env("WATCHDOG_PID"));
    let tick = watchdog.map_or(TICK, |interval| interval.min(TICK));
    let mut beats = running.server_handle().beats();
    loop {
        match signals.recv_timeout(tick) {
            Ok(Signal::Stop) => return Ok(()),
            Ok(Signal::Reload) => {
                service.reloading();
                running.reload_file();
                service.ready();
            }
            Err(RecvTimeoutError::Timeout) if running.has_died() => {
                return Err(Failed::new(1, "the listener thread died; exiting so the service manager can restart"));
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
            Err(RecvTimeoutError::Disconnected) => return Err(Failed::new(1, "cannot listen for signals any more")),
        }
    }
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
