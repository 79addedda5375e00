//! Both ends of a mux over a socket pair.

mod basics;
mod pair;
