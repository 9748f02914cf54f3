//! `jobs`: submit now, read later.

use crate::util::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// `jobs` (SPEC section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// Requests may be submitted as jobs.
    pub enabled: bool,
    /// Jobs that run at once.
    pub max_concurrent: usize,
    pub attempts: u32,
    /// How long a finished one can be read.
    pub retention: Duration,
    /// How long one may run, all tries together.
    pub timeout: Duration,
    pub max_queued: usize,
    /// Their folder, relative to the working directory.
    pub dir: PathBuf,
    /// Every request is a job, unless it says `Prefer: wait`.
    pub always: bool,
    pub webhooks: Webhooks,
}

/// `jobs.webhooks`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhooks {
    /// Hosts that may get webhooks although their addresses are private.
    pub allow: Vec<String>,
    /// Signs webhooks (Standard Webhooks).
    pub secret: Option<Secret>,
    pub attempts: u32,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            enabled: false,
            max_concurrent: 2,
            attempts: 3,
            retention: Duration::from_secs(3600),
            timeout: Duration::from_secs(600),
            max_queued: 1000,
            dir: "data/jobs".into(),
            always: false,
            webhooks: Webhooks::default(),
        }
    }
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { allow: Vec::new(), secret: None, attempts: 5 }
    }
}
