//! Building blocks without a domain word: time, chance, locks, secrets, units, signals. Imports no other module.

pub mod budget;
pub(crate) mod cancel;
pub(crate) mod disk;
pub(crate) mod lock;
pub(crate) mod lru;
pub(crate) mod random;
pub mod secret;
pub(crate) mod signals;
pub(crate) mod system;
pub(crate) mod systemd;
#[cfg(test)]
pub(crate) mod tests;
pub mod time;
pub(crate) mod units;
