//! The models and endpoints that a client may see. To the client nothing else exists. Pure.

use crate::config::{self, matches};
use crate::routing::endpoint::Endpoint;
use std::sync::Arc;

/// A group in one snapshot, with its own settings and order of its endpoints.
pub(crate) struct Group {
    pub config: config::Group,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// Empty lists include everything.
#[derive(Clone, Default)]
pub(crate) struct Scope {
    pub(crate) models: Vec<String>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) group: Option<Arc<Group>>,
}

impl Scope {
    /// The label of its group in metrics.
    pub(crate) fn group_name(&self) -> &str {
        self.group.as_ref().map_or("default", |group| &group.config.name)
    }

    pub(crate) fn is_all(&self) -> bool {
        self.models.is_empty() && self.endpoints.is_empty() && self.group.is_none()
    }

    pub(crate) fn has_model(&self, name: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| matches(pattern, name))
    }

    pub(crate) fn has_endpoint(&self, name: &str) -> bool {
        let in_group = self.group.as_ref().is_none_or(|group| group.endpoints.iter().any(|one| one.name() == name));
        in_group && (self.endpoints.is_empty() || self.endpoints.iter().any(|one| one == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_scope_has_everything() {
        let all = Scope::default();
        assert!(all.is_all() && all.has_model("x") && all.has_endpoint("y"));
        let some = Scope { models: vec!["m*".into()], endpoints: vec!["a".into()], group: None };
        assert!(some.has_model("m1") && !some.has_model("x") && some.has_endpoint("a") && !some.has_endpoint("b"));
    }
}
