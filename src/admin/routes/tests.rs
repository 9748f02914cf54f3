//! Unit tests of `routes`.

use super::*;

fn names() -> impl FnMut() -> String {
    || "made".to_owned()
}

#[test]
fn a_model_is_read_in_any_case_and_written_as_documented() {
    // S003-27, S003-30
    let given = json!({"strategy": 2, "BACKENDS": [{"name": "", "baseURL": " http://h:1/v1 ", "apikeys": "a, b,", "weight": 0, "x": 1}]});
    let (out, _) = written(&given, &json!({}), &mut names());
    let expected = json!({"Strategy": "Weighted", "Backends": [{"Name": "made", "BaseUrl": "http://h:1/v1", "ApiKeys": ["a", "b"], "BackendModelName": null, "Weight": 1, "Enabled": true}]});
    assert_eq!(out, expected);
    assert_eq!(
        written(&json!({"backends": null}), &json!({}), &mut names()),
        (json!({"Strategy": "RoundRobin", "Backends": []}), vec![])
    );
    let (_, wrong) = written(&json!({"backends": [1, {"apiKeys": [2]}]}), &json!({}), &mut names());
    assert_eq!(wrong.iter().map(|(place, _)| place.as_str()).collect::<Vec<_>>(), ["backends[1].apiKeys[0]"]);
}

#[test]
fn a_mask_stands_for_its_key_and_tells_nothing_of_it() {
    let stored =
        json!({"Models": {"m": {"Backends": [{"BaseUrl": "http://h:1/", "ApiKeys": ["canary-1", "canary-2"]}]}}});
    let shown = masked(&stored);
    assert!(!shown.to_string().contains("canary"));
    let keys = shown["Models"]["m"]["Backends"][0]["ApiKeys"].clone();
    let by_hand = json!({"ApiKeys": "canary", "apiKey": "canary", "Headers": {"X-Auth": ["canary"]}, "BaseUrl": "http://u:canary@h"});
    assert!(!masked(&by_hand).to_string().contains("canary"));
    // In another order, with a new one between.
    let given = json!({"Backends": [{"BaseUrl": "http://h:1", "ApiKeys": [keys[1], "new", keys[0]]}]});
    let (out, wrong) = written(&given, &stored, &mut names());
    assert!(wrong.is_empty());
    assert_eq!(out["Backends"][0]["ApiKeys"], json!(["canary-2", "new", "canary-1"]));
    // U03: nowhere else.
    for other in [
        json!({"BaseUrl": "http://h:1", "ApiKeys": ["***00000000"]}),
        json!({"BaseUrl": "http://h:2", "ApiKeys": [keys[0]]}),
        json!({"BaseUrl": "http://evil/http://h:1", "ApiKeys": [keys[0]]}),
        json!({"baseurl": "http://h:2", "BaseUrl": "http://h:1", "ApiKeys": [keys[0]]}),
        json!({"Endpoint": "e", "BaseUrl": "http://h:1", "ApiKeys": [keys[0]]}),
        json!({"ApiKeys": [keys[0]]}),
    ] {
        let (out, wrong) = written(&json!({"Backends": [other]}), &stored, &mut names());
        assert!(wrong.len() == 1 && !out.to_string().contains("canary"), "{other}");
    }
}

#[test]
fn the_models_of_a_file_are_found_in_any_case_and_made_where_there_are_none() {
    let mut file = json!({"models": {"a": {}}});
    assert_eq!(models(&mut file).len(), 1);
    let mut file = json!(null);
    models(&mut file).insert("b".into(), json!({}));
    assert_eq!(file, json!({"Models": {"b": {}}}));
}
