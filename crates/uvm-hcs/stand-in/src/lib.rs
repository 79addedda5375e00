//! Stands in for `computecore.dll` in tests: gives handles, finishes operations by callbacks on other threads, tells
//! events, and writes down whatever is done to it that the real one would not bear.
//!
//! A test asks for the books by a query of the service for `StandIn`: systems and operations that are open, texts that
//! were not freed, violations. What a system is to do beyond the ordinary is asked by a change of it: `{"Fail":true}`,
//! `{"Disconnect":true}`, `{"Exit":true}`.

#[cfg(windows)]
mod books;
#[cfg(windows)]
mod exports;
#[cfg(windows)]
mod text;
