//! Both ends of a mux over a socket pair.

mod basics;
mod faults;
mod load;
mod pair;
mod relay;
