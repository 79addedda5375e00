//! Both ends of a mux over a socket pair.

#![cfg(not(loom))]

mod basics;
mod faults;
mod load;
mod pair;
mod port;
mod relay;
