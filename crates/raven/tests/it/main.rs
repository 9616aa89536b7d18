//! The real binary, from outside: started in a folder of its own, with an environment of its own.

mod documents;
mod layers;
mod operators;
mod quickstart;
mod serve;
mod settings;
mod support;
