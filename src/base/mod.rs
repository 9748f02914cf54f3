//! Ground that every room stands on: time, chance, secrets, units, signals. Imports no other room.

pub mod address;
pub mod budget;
#[cfg(test)]
pub mod child;
pub mod clock;
pub mod dice;
pub mod disk;
pub mod gone;
pub mod lock;
pub mod notify;
pub mod recent;
pub mod secret;
pub mod signals;
pub mod text;
