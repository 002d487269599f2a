//! The program `weldpool`.
fn main() {}
