//! The oxilium command.
fn main() {}
