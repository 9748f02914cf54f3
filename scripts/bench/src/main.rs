//! Runs every mode for a direct connection, nginx and llmproxy in turn, three rounds, and prints one table.
//! `run` beside this crate builds it, pins it to its core and explains the options.

mod hold;
mod http;
mod load;
mod mock;
mod streams;
mod table;
mod target;

use mock::Mock;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};
use table::Table;
use target::{KINDS, Kind, Rig, free_port};

/// Why something could not be measured.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// One mode: how a target is measured, and what is derived when all three have been.
struct Mode {
    name: &'static str,
    measure: fn(&Rig, Kind, &mut Table) -> Result<(), Fault>,
    derive: fn(&mut Table),
}

const MODES: [Mode; 8] = [
    Mode { name: "latency", measure: load::latency, derive: |t| t.added("one at a time", 1.05, 1.5) },
    Mode { name: "rps", measure: load::rps, derive: |_| () },
    Mode {
        name: "tokens",
        measure: streams::tokens,
        derive: |t| {
            t.added("token, 32 streams", 1.0, 1.5);
            t.added("token, 256 streams", 1.0, 2.0);
        },
    },
    Mode { name: "bodies", measure: load::bodies, derive: |_| () },
    Mode { name: "cancel", measure: streams::cancel, derive: |_| () },
    Mode { name: "memory", measure: hold::memory, derive: |_| () },
    Mode { name: "slow", measure: hold::slow, derive: |_| () },
    Mode { name: "size", measure: hold::size, derive: |_| () },
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// False when something could not be measured.
fn run() -> Result<bool, Fault> {
    let (rig, modes) = arguments()?;
    let rounds = if rig.quick { 1 } else { 3 };
    let mut table = Table::default();
    print_machine(&rig, rounds);
    for round in 0..rounds {
        table.round = round;
        for mode in &modes {
            // nobody is always first
            for i in 0..KINDS.len() {
                let kind = KINDS[(i + round) % KINDS.len()];
                if kind == Kind::Llmproxy && rig.bin.is_none() {
                    continue;
                }
                eprintln!("bench: round {} of {rounds}: {} {kind:?}", round + 1, mode.name);
                if let Err(why) = (mode.measure)(&rig, kind, &mut table) {
                    table.note(format!("round {}, {} {kind:?}: {why}", round + 1, mode.name));
                }
            }
            (mode.derive)(&mut table);
        }
    }
    table.print();
    Ok(!table.failed())
}

fn arguments() -> Result<(Rig, Vec<&'static Mode>), Fault> {
    let (mut dir, mut cpu, mut bin, mut only, mut quick) = (None, "0".to_owned(), None, String::new(), false);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--cpu" => cpu = value()?,
            "--bin" => bin = Some(value()?).filter(|bin| bin != "none").map(PathBuf::from),
            "--only" => only = value()?,
            "--quick" => quick = true,
            _ => return Err(format!("{word} is no option of mine: see scripts/bench/run").into()),
        }
    }
    let mut modes = Vec::new();
    for name in only.split(',').filter(|name| !name.is_empty()) {
        modes.push(MODES.iter().find(|mode| mode.name == name).ok_or(format!("{name} is no mode"))?);
    }
    if modes.is_empty() {
        modes.extend(&MODES);
    }
    let dir = dir.ok_or("--dir is missing: start me by scripts/bench/run")?;
    let bin = bin.map(|bin| fs::canonicalize(&bin).map_err(|e| format!("{}: {e}", bin.display()))).transpose()?;
    let mock = Mock::start(free_port()?)?;
    Ok((Rig { mock, bin, dir, cpu, quick }, modes))
}

fn print_machine(rig: &Rig, rounds: usize) {
    let first = |path: &str, start: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().find(|line| line.starts_with(start)).unwrap_or_default().trim_start_matches(start).to_owned()
    };
    let nginx = std::process::Command::new("nginx").arg("-v").output();
    let nginx = nginx.map(|out| String::from_utf8_lossy(&out.stderr).trim().replace("nginx version: ", ""));
    println!(
        "{}; Linux {}; {}; load average before {}.\n",
        first("/proc/cpuinfo", "model name").trim_start_matches([' ', '\t', ':']),
        first("/proc/sys/kernel/osrelease", ""),
        nginx.unwrap_or_default(),
        first("/proc/loadavg", "").split(' ').next().unwrap_or_default(),
    );
    println!(
        "{rounds} round(s), medians (worst: of all rounds); x nginx is the median of the ratios within a round. \
         Proxy on core {}, mock upstream and load on another. nginx's buffers are its defaults. \
         Added = figure - direct p50 of the same round.\n",
        rig.cpu
    );
}
