//! Another computer over SSH: connect, run a command, talk to it.
