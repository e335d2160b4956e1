//! The untrusted agent process, alone inside its box: it reads its inbox, asks the model through one
//! socket, and answers. Imports `contract` and `os`; never the control plane.

pub mod boot;
pub mod harden;
pub mod journal;
pub mod mailbox;
pub mod models;
pub mod prompt;
mod rest;
pub mod selftest;
pub mod tools;
pub mod transcript;
pub mod turn;

#[cfg(test)]
mod scratch;
