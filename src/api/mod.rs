//! What the OpenAI, Anthropic and llama-server wire formats look like. Pure.

pub mod body;
pub mod chunked;
pub mod errors;
pub mod json_object;
pub mod model_list;
pub mod multipart;
pub(crate) mod paths;
pub mod prefix;
pub mod query;
pub(crate) mod scan;
pub(crate) mod stream;
pub(crate) mod usage;
