//! A program that does nothing, with success.

fn main() {}
