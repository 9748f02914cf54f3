//! What the OpenAI, Anthropic and llama-server wire formats look like. Pure.

pub mod answer;
pub mod body;
pub mod chunked;
pub mod errors;
pub mod model_list;
pub mod multipart;
pub(crate) mod paths;
pub mod query;
