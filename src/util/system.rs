//! Limits of this process, and its protection.

#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, getrlimit};

/// How many files and sockets this process may hold open.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Keeps prompts and keys out of core files, and other programs of the same user out of this one's memory.
pub(crate) fn forbid_dumps() {
    #[cfg(target_os = "linux")]
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::debug!("a core file of this process may be written: {error}");
    }
}
