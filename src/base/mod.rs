//! Ground that every room stands on: time, chance, secrets, units, signals. Imports no other room.

pub mod clock;
pub mod secret;
