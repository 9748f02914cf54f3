//! llmproxy: one OpenAI-compatible address in front of several model servers.

pub mod app;
pub mod base;
pub mod config;
pub mod demo;
pub mod health;
pub mod http;
pub mod model;
pub mod observe;
pub mod proxy;
pub mod upstream;
