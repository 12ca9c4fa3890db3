//! The CNI plugin `calico`: gives a pod its interface and its addresses.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::plugin::main(&cni::calico::PLUGIN)
}
