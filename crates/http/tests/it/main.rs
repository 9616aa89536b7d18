//! The API over both engines: the router in memory, the real store behind it.

mod auth;
mod callbacks;
mod contract;
mod creating;
mod dry_run;
mod explain;
mod extras;
mod keys;
mod limits;
mod lists;
mod messages;
mod moto;
mod openapi;
mod pages;
mod provider_test;
mod providers;
mod quota;
mod routing;
mod sandbox;
mod simulated;
mod suppressions;
mod tenancy;
mod tenants;
mod totality;
mod unsubscribe;
mod walk;
