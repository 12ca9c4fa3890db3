//! The CNI plugin `calico-ipam`: gives a pod addresses and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::plugin::main(&cni::calico_ipam::PLUGIN)
}
