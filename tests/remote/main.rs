//! Machines over SSH: real instances, a real `sshd`, and links that fail.

#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/proxy.rs"]
mod proxy;

mod installs;
mod links;
mod matrix;
mod sessions;
mod sshd;

#[test]
#[ignore = "the process of an instance, not a test"]
fn is_an_instance() {
    machine::be_an_instance();
}
