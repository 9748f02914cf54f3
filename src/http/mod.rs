//! The client's door.
