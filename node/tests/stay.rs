//! What stays until it is told to stop, as a container's first process must.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn it_stays_until_it_is_told_to_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calico-node"));
        let mut child = command.arg("stay").stdout(Stdio::piped()).spawn().unwrap();
        // It says so when it takes the signals; before that it would end by them.
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, signal).unwrap();
        let mut last = String::new();
        said.read_line(&mut last).unwrap();
        assert!(child.wait().unwrap().success(), "{signal}");
        assert_eq!(
            (line.trim_end(), last.trim_end()),
            ("staying until it is told to stop", &*format!("stopped by {signal}"))
        );
    }
}
