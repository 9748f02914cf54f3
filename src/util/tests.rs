//! A unit test that needs a process of its own (signals, a broken stderr) runs itself again. Tests only.

use std::process::{Command, Stdio};

/// Filters no test away; its presence among the arguments tells the child from the parent.
const MARK: &str = "this-is-the-child";

/// Whether this process was started by [`again`].
pub(crate) fn is_child() -> bool {
    std::env::args().any(|argument| argument == MARK)
}

/// This test program, made to run the one test of that full name. Its stderr is real, not captured; what the test
/// runner says on stdout is nobody's result and is thrown away.
pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of a running program"));
    command.args([test, "--exact", "--nocapture", "--skip", MARK]).stdout(Stdio::null());
    command
}
