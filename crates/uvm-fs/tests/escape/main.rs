//! A hostile guest, by raw requests, against a share next to a secret; in this process, which nothing confines.
#![cfg(target_os = "linux")]

mod limits;
mod names;
mod place;
mod requests;
mod rights;
