//! Test support: fresh databases, and what else a test needs of the world.

pub mod app;
pub mod clock;
pub mod contract;
pub mod database;
pub mod faults;
pub mod simulators;
