//! Parses the command line, runs, prints what went wrong, sets the exit code.

fn main() {}
