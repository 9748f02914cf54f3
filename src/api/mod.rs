//! What the OpenAI, Anthropic and llama-server wire formats look like. Pure.

pub mod body;
pub mod chunked;
pub mod errors;
pub(crate) mod json;
pub mod model_list;
pub mod multipart;
pub(crate) mod paths;
pub mod prefix;
pub mod query;
pub(crate) mod stream;
pub(crate) mod usage;
