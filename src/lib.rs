//! The map of the house: one room a line. Dependencies point one way: both sides of the wall enter
//! `contract`, nothing in `contract` knows either side, and only `front` may use all of them.

pub mod contract;
pub mod controlplane;
pub mod front;
pub mod ironctl;
pub mod os;
pub mod sandbox;
