//! The server as its clients see it: raw requests over a socket, one topic a file.

#![cfg(target_os = "linux")]

mod alone;
mod attributes;
mod client;
mod codec;
mod connections;
mod directories;
mod escape;
mod file_size;
mod files;
mod locks;
mod misuse;
mod ownership;
mod races;
mod restricted;
mod sessions;
mod waiting;
mod xattrs;
