//! Building blocks without a domain word: time, chance, locks, secrets, units, signals. Imports no other module.

pub mod budget;
pub mod cancel;
#[cfg(test)]
pub mod child;
pub mod disk;
pub mod lock;
pub mod lru;
pub mod random;
pub mod secret;
pub mod signals;
pub mod subnet;
pub mod systemd;
pub mod time;
pub mod units;
