//! What the OpenAI, Anthropic and llama-server wire formats look like. Pure.

pub mod answer;
pub mod body;
pub mod chunked;
pub mod edit;
pub mod errors;
pub(crate) mod json;
pub mod model_list;
pub mod multipart;
pub(crate) mod paths;
pub(crate) mod prompt;
pub mod query;
