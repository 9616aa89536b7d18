//! Providers of email.

pub mod smtp;
