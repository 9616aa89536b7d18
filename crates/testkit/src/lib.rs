//! Test support: fresh databases, and what else a test needs of the world.

pub mod database;
