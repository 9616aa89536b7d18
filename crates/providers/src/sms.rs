//! Providers of text messages.

pub mod africas_talking;
pub mod infobip;
pub mod messagebird;
pub mod plivo;
pub mod smpp;
pub mod termii;
pub mod twilio;
pub mod vonage;
