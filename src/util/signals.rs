//! What the operating system asks of the process. Knows nothing of how it is done.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT: drain and end. Comes once; the second one ends the process at once.
    Stop,
    /// SIGHUP: read the configuration again. Any number before it is taken out are one.
    Reload,
}

/// Listens from now on; meant to be called once. SIGPIPE stays ignored, as Rust starts a process.
pub(crate) fn listen() -> io::Result<Receiver<Signal>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order the first one only sets the flag. The second one exits from inside the handler, 143 or 130
        // as a shell counts, so that no stuck thread of ours can hold it up.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // Capacity 1: a reload that was not begun stands for all that come meanwhile.
    let (sender, receiver) = bounded(1);
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let signal = if signal == SIGHUP { Signal::Reload } else { Signal::Stop };
            if pass(&sender, signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Sends a signal on; an error means that the receiver is gone.
fn pass(sender: &Sender<Signal>, signal: Signal) -> Result<(), ()> {
    match signal {
        // Waits behind a reload at most, and is never lost.
        Signal::Stop => sender.send(signal).map_err(drop),
        Signal::Reload => match sender.try_send(signal) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::tests as child;
    use signal_hook::low_level::raise;

    #[test]
    fn a_second_stop_ends_the_process_at_once() {
        // E6, in a process of its own
        if !child::is_child() {
            let test = "util::signals::tests::a_second_stop_ends_the_process_at_once";
            assert_eq!(child::again(test).status().unwrap().code(), Some(128 + SIGINT));
            return;
        }
        let signals = listen().unwrap();
        raise(SIGHUP).unwrap();
        assert_eq!(signals.recv(), Ok(Signal::Reload));
        raise(SIGTERM).unwrap();
        assert_eq!(signals.recv(), Ok(Signal::Stop));
        raise(SIGINT).unwrap();
        unreachable!("the second stop did not end the process");
    }

    #[test]
    fn many_reloads_are_one_and_a_stop_is_never_lost() {
        // E6
        let (sender, receiver) = bounded(1);
        for _ in 0..200 {
            pass(&sender, Signal::Reload).unwrap();
        }
        let stop = thread::spawn(move || pass(&sender, Signal::Stop));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [Signal::Reload, Signal::Stop]);
        assert_eq!(stop.join().unwrap(), Ok(()));
    }

    #[test]
    fn signals_end_when_nobody_listens() {
        let (sender, receiver) = bounded(1);
        drop(receiver);
        assert_eq!((pass(&sender, Signal::Reload), pass(&sender, Signal::Stop)), (Err(()), Err(())));
    }
}
