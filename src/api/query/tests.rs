//! Unit tests of `query`.

use super::*;

fn name(query: &str) -> Option<String> {
    query_model(query).unwrap().map(|named| named.name)
}

#[test]
fn the_model_is_decoded() {
    assert_eq!(name("model=a%2Fb+c%C3%A9"), Some("a/b cé".into()));
    assert_eq!(name("x=1&model=m&y=model"), Some("m".into()));
    assert_eq!(name("mod%65l=m"), Some("m".into()));
    assert_eq!(name("model=a=b"), Some("a=b".into()));
    assert_eq!(name("model"), Some(String::new()));
    for query in ["", "models=x", "Models=x", "a&&b", "mode%l=x", "x=model"] {
        assert_eq!(name(query), None, "{query}");
    }
}

#[test]
fn an_unclear_model_is_refused() {
    let cased = ["Model=a&model=a", "model=a&MODEL=a", "model=a&%4dodel=b", "Model=a"];
    let all = ["model=a&model=a", "model=a&mod%65l=b", "model=%", "model=%4", "model=%zz", "model=%ff", "model=%+1"];
    // U27
    for query in all.into_iter().chain(cased) {
        let failure = query_model(query).expect_err(query);
        assert_eq!((failure.kind.status(), failure.param), (400, Some("model")), "{query}");
    }
}

#[test]
fn renaming_changes_the_value_alone() {
    for (query, renamed) in [
        ("a=%zz&model=x%41&b=+", "a=%zz&model=n%2F1%C3%A9&b=+"),
        ("mod%65l=&c", "mod%65l=n%2F1%C3%A9&c"),
        ("model", "model=n%2F1%C3%A9"),
    ] {
        let named = query_model(query).unwrap().expect("model");
        assert_eq!(query_renamed(query, &named.span, "n/1é"), renamed);
    }
}
