//! The simulators: what they do to a client, and that the providers' own SDKs and a real mail server agree with them.

mod listed;
mod sdk;
mod simulators;
mod smtp;
