//! Reads configuration files, secret files and the environment. No other file does.

pub use super::check::{Loaded, json, keys, parse, with_routes};
use super::endpoint::certificates;
use super::{Config, Problem, check, own, sections};
use crate::config::legacy;
use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The largest configuration file.
const MOST_BYTES: u64 = 1 << 20;

/// Where a configuration is searched for if none is given.
const PLACES: [&str; 3] = ["config/endpoints.yml", "config.yaml", "/etc/llmproxy/endpoints.yml"];

#[derive(Debug)]
pub enum LoadError {
    Missing(PathBuf),
    Directory(PathBuf),
    Unreadable(PathBuf, io::Error),
    Bad(Vec<Problem>),
}

impl LoadError {
    /// The exit code of `sysexits.h`: no input, no permission, bad configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missing(_) | Self::Directory(_) => 66,
            Self::Unreadable(..) => 77,
            Self::Bad(_) => 78,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{}: no such file", path.display()),
            Self::Directory(path) => write!(f, "{}: is a directory, not a file", path.display()),
            Self::Unreadable(path, cause) => write!(f, "{}: cannot be read: {cause}", path.display()),
            Self::Bad(problems) => f.write_str(&Problem::lines(problems)),
        }
    }
}

impl std::error::Error for LoadError {}

/// The file to load: from the option, the variable, or else the first of the default places that exists.
pub fn find(flag: Option<&Path>) -> Option<PathBuf> {
    // A file that cannot be examined is chosen too, so that the error says why.
    search(flag, env("LLMPROXY_CONFIG"), &|path| path.try_exists().unwrap_or(true))
}

fn search(flag: Option<&Path>, variable: Option<String>, exists: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let named = flag.map(Path::to_owned).or_else(|| variable.filter(|path| !path.is_empty()).map(PathBuf::from));
    named.or_else(|| PLACES.iter().map(PathBuf::from).find(|path| exists(path)))
}

pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let text = read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let exposed_files = RefCell::new(Vec::new());
    let file = |secret: &Path| {
        let path = folder.join(secret);
        let text = self::text(&path)?;
        // Certificates are public.
        let is_secret = !text.contains("-----BEGIN CERTIFICATE-----");
        exposed_files.borrow_mut().extend((is_secret && is_world_readable(&path)).then_some(path));
        Ok(text)
    };
    let mut loaded = check::parse(&path.display().to_string(), &text, &env, &file).map_err(LoadError::Bad)?;
    let Loaded { config, warnings, is_paged, exposed } = &mut loaded;
    if !exposed.is_empty() && is_world_readable(path) {
        warnings.push(format!(
            "{0}: every user of this machine can read it, and a secret stands in it ({1}); \
             `chmod 600 {0}`, or write ${{NAME}} or a ...File key instead",
            path.display(),
            exposed.join(", ")
        ));
    }
    if *is_paged {
        config.admin.enabled = true;
        config.admin.routes_file = path.to_owned();
        config.admin.probe = false;
        // Format 003 lets loopback clients edit routes without a token.
        config.admin.open = true;
        warnings.push(sections::OPEN.to_owned());
    } else if config.admin.enabled {
        let routes = config.admin.routes_file.clone();
        let added = read_text(&routes).ok().and_then(|text| with_routes("", &text, config).ok());
        let holds_keys = added.is_some_and(|added| !added.exposed.is_empty());
        exposed_files.borrow_mut().extend((holds_keys && is_world_readable(&routes)).then_some(routes));
    }
    for path in exposed_files.into_inner() {
        warnings.push(format!(
            "{0}: every user of this machine can read it, and it holds a secret; `chmod 600 {0}`",
            path.display()
        ));
    }
    Ok(loaded)
}

/// The configuration in the environment (format 004) and in `.env`; environment variables take precedence.
pub fn from_environment() -> Option<Result<Config, LoadError>> {
    let text = match read_text(Path::new(".env")) {
        Ok(text) => text,
        Err(LoadError::Missing(_) | LoadError::Directory(_)) => String::new(),
        // An empty key would leave the proxy open.
        Err(error) => return Some(Err(error)),
    };
    let beside = super::dotenv(&text);
    let variable = |name: &str| env(name).or_else(|| beside.get(name).cloned());
    legacy::from_environment(&variable).map(|read| read.map_err(LoadError::Bad))
}

/// Refuses endpoints with an address of this proxy. Called after all overrides.
///
/// # Errors
/// A problem for each, with the file's name as its place.
pub fn refuse_own_addresses(name: &str, config: &Config) -> Result<(), LoadError> {
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    let problems = own::problems(name, config, &own::Machine { name: host_name, has: &is_own });
    if problems.is_empty() { Ok(()) } else { Err(LoadError::Bad(problems)) }
}

/// Whether an address belongs to this machine: connecting a UDP socket only selects a route and sends nothing.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let chosen = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    chosen.is_ok_and(|chosen| chosen.ip() == address)
}

/// The certificates in `SSL_CERT_FILE`, for all endpoints; read once.
pub fn system_authorities() -> &'static [Vec<u8>] {
    static READ: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    READ.get_or_init(|| {
        let Some(path) = env("SSL_CERT_FILE").filter(|path| !path.is_empty()) else { return Vec::new() };
        let read = text(Path::new(&path)).map_err(|e| e.to_string()).and_then(|text| certificates(&text));
        read.unwrap_or_else(|problem| {
            log::warn!("SSL_CERT_FILE: {path}: {problem}; only the built-in authorities are trusted");
            Vec::new()
        })
    })
}

/// An environment variable, if it is set and is UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The memory of this machine in bytes, or of the control group if that is less.
pub fn memory_limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| total_memory(&text)).or_else(macos_memory);
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let groups = group_files(&groups).into_iter().filter_map(|file| read(&file)?.trim().parse().ok());
    groups.chain(machine).min()
}

/// Without unsafe code, macOS tells its memory only through the program `sysctl`.
fn macos_memory() -> Option<u64> {
    let told = cfg!(target_os = "macos")
        .then(|| Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok())
        .flatten()?;
    String::from_utf8(told.stdout).ok()?.trim().parse().ok()
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files with memory limits: of the group and its ancestors, for both versions of control groups.
fn group_files(groups: &str) -> Vec<String> {
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        Some(ends.map(|end| format!("{root}{}/{file}", &path[..end])).collect::<Vec<_>>())
    };
    groups.lines().filter_map(of).flatten().collect()
}

fn read_text(path: &Path) -> Result<String, LoadError> {
    let unreadable = |cause: io::Error| match cause.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => LoadError::Missing(path.into()),
        _ => LoadError::Unreadable(path.into(), cause),
    };
    if fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Err(LoadError::Directory(path.into()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    let bad = |place: String, text: &str| LoadError::Bad(vec![Problem::at(place, text)]);
    if bytes.len() as u64 > MOST_BYTES {
        return Err(bad(path.display().to_string(), "is larger than 1 MiB; no configuration is"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        bad(format!("{}:{line}:{column}", path.display()), "is not UTF-8 text; save the file as UTF-8")
    })
}

/// The text of a file that a configuration names: a secret, or certificates.
///
/// # Errors
/// It cannot be read, is too large or is not text.
pub fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(unix)]
fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_world_readable(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_then_the_variable_then_the_first_place_that_exists_is_loaded() {
        let none = |_: &Path| false;
        let all = |_: &Path| true;
        let flag = Path::new("a.yml");
        assert_eq!(search(Some(flag), Some("b.yml".into()), &all), Some("a.yml".into()));
        assert_eq!(search(None, Some("b.yml".into()), &all), Some("b.yml".into()));
        assert_eq!(search(None, Some(String::new()), &all), Some("config/endpoints.yml".into()));
        assert_eq!(search(None, None, &|path| path == Path::new("config.yaml")), Some("config.yaml".into()));
        let etc = "/etc/llmproxy/endpoints.yml";
        assert_eq!(search(None, None, &|path| path == Path::new(etc)), Some(etc.into()));
        assert_eq!(search(None, None, &none), None);
    }

    #[test]
    fn limits_of_memory_are_looked_for_in_every_group_above() {
        let first = "4:memory:/box/7\n1:cpu:/box\n";
        let expected = ["/memory.limit_in_bytes", "/box/memory.limit_in_bytes", "/box/7/memory.limit_in_bytes"];
        assert_eq!(group_files(first), expected.map(|file| format!("/sys/fs/cgroup/memory{file}")));
        let second = "0::/system.slice/llmproxy.service\n";
        let expected = ["/memory.max", "/system.slice/memory.max", "/system.slice/llmproxy.service/memory.max"];
        assert_eq!(group_files(second), expected.map(|file| format!("/sys/fs/cgroup{file}")));
        assert_eq!(total_memory("MemTotal:       16280908 kB\nMemFree: 1 kB\n"), Some(16_280_908 * 1024));
        assert!(memory_limit().is_none_or(|limit| limit > 1 << 20));
    }
}
