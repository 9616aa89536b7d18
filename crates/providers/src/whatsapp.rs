//! Providers of WhatsApp.

pub mod twilio_whatsapp;
pub mod whatsapp_cloud;
