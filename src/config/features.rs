//! The optional parts of the program (cargo features), and the error of a configuration that needs a missing one.

pub(crate) struct Feature {
    is_built: bool,
    pub(crate) absent: &'static str,
}

pub(crate) const JOBS: Feature =
    Feature { is_built: cfg!(feature = "jobs"), absent: "this build has no jobs; build with --features jobs" };
pub(crate) const ADMIN: Feature =
    Feature { is_built: cfg!(feature = "admin"), absent: "this build has no admin page; build with --features admin" };
pub(crate) const DEMO: Feature =
    Feature { is_built: cfg!(feature = "demo"), absent: "this build has no demo; build with --features demo" };

impl Feature {
    /// # Errors
    /// This build does not include it.
    pub(crate) fn require(&self) -> Result<(), &'static str> {
        if self.is_built { Ok(()) } else { Err(self.absent) }
    }
}
