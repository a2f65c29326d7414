//! The worker's command line.

fn main() {}
