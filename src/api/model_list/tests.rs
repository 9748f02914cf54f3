//! Unit tests of `model_list`.

use super::*;

fn of(body: &str) -> Option<Vec<Model>> {
    list_of(body.as_bytes()).ok()
}

fn ids(body: &str) -> Vec<String> {
    of(body).expect(body).into_iter().map(|model| model.id).collect()
}

#[test]
fn the_entries_of_every_known_shape_are_found() {
    for body in [
        r#"[{"id":"a"},{"name":"b"},{"id":"","model":"c"}]"#,
        r#"{"object":"list","data":[{"id":"a"},7,"x",{"no":1},{"id":"b"},{"id":"c"}]}"#,
        r#" {"models":[{"name":"x"}],"data":[{"id":"a","id":"z"},{"name":"b"},{"model":"c"}]} "#,
        r#"{"data":null,"models":[{"name":"a"},{"name":"b"},{"name":"c"}]}"#,
    ] {
        assert_eq!(ids(body), ["a", "b", "c"], "{body}");
    }
    for body in ["[]", r#"{"data":[]}"#, r#"{"object":"list","data":null}"#] {
        assert_eq!(of(body), Some(vec![]), "{body}");
    }
}

// R09
#[test]
fn what_is_no_list_says_what_it_is() {
    for (body, wanted) in [
        ("<!doctype html>", "is HTML"),
        ("\n <html>", "is HTML"),
        ("", "is not JSON"),
        ("x", "is not JSON"),
        ("[{\"id\":\"a\"}", "is not JSON"),
        ("[{\"id\":\"a\"}] x", "is not JSON"),
        ("null", "has no `data`"),
        ("\"x\"", "has no `data`"),
        ("{}", "has no `data`"),
        (r#"{"object":"list"}"#, "has no `data`"),
        (r#"{"data":"x"}"#, "has no `data`"),
        (r#"{"data":{}}"#, "has no `data`"),
        (r#"{"error":{"message":"no"}}"#, "is an error"),
        (r#"{"data":["a","b"]}"#, "has no entry with an `id`"),
        ("[1]", "has no entry with an `id`"),
        (r#"[{"id":""},{"id":7}]"#, "has no entry with an `id`"),
    ] {
        assert_eq!(list_of(body.as_bytes()), Err(wanted), "{body}");
    }
    assert_eq!(list_of(b"\xef\xbb\xbf{\"data\":[{\"id\":\"m\"}]}").map(|models| models.len()), Ok(1), "a BOM");
}

// U29
#[test]
fn what_is_kept_is_bounded_however_long_the_list_is() {
    let padding = "[".repeat(100_000) + &"]".repeat(100_000);
    let aliases: String = (0..100_000).map(|n| format!(r#","a{n}""#)).collect();
    let fields: String = (0..500).map(|n| format!(r#","f{n}":"{}""#, "x".repeat(20))).collect();
    let entry = format!(r#"{{"id":"a","deep":{padding},"aliases":["a"{aliases}],"half":"\ud800"{fields}}}"#);
    let models = of(&format!("[{entry}{}]", r#",{"id":"b"}"#.repeat(9_999))).expect("a list");
    assert_eq!(models.len(), MAX_MODELS);
    assert_eq!(models[0].names().count(), MAX_ALIASES);
    let fields = &models[0].fields;
    assert!(fields.len() <= MAX_FIELDS && fields.len() > 50, "{}", fields.len());
    assert!(fields.iter().map(|(key, text)| key.len() + text.len()).sum::<usize>() <= LONGEST_ENTRY);
    assert!(fields.iter().all(|(key, _)| key != "half" && key != "deep"));
}

// R12
#[test]
fn the_context_is_read_by_each_of_its_names_and_numbers_are_made_whole() {
    for (entry, context) in [
        (r#""n_ctx":5"#, Some(5)),
        (r#""meta":{"n_ctx_train":9,"n_ctx":5}"#, Some(5)),
        (r#""max_model_len":"5""#, Some(5)),
        (r#""max_model_len":null,"context_length":5.9"#, Some(5)),
        (r#""context_window":5e0"#, Some(5)),
        (r#""context_window":0,"meta":{"n_ctx":5}"#, Some(5)),
        (r#""meta":{"n_ctx":0},"n_ctx":-5"#, None),
        (r#""meta":[5],"n_ctx":"NaN","context_length":1e300"#, None),
    ] {
        assert_eq!(of(&format!(r#"[{{"id":"a",{entry}}}]"#)).expect("a list")[0].context, context, "{entry}");
    }
}

#[test]
fn a_routers_command_lines_stay_at_home() {
    let recorded = include_str!("../../../tests/data/router_models.raw");
    let models = of(recorded.split("\r\n\r\n").nth(1).expect("a body")).expect("a list");
    assert_eq!(models.len(), 4);
    let text = format!("{:?}", models[0].fields);
    assert!(text.contains(r#"{\"value\":\"unloaded\"}"#) && !text.contains("/srv"), "{text}");
}

#[test]
fn what_an_entry_says_of_images_and_of_its_state_is_read() {
    // Issue 14, section 2
    let of = |entry: &str| {
        let models = list_of(format!(r#"{{"data":[{{"id":"m",{entry}}}]}}"#).as_bytes()).expect("a list");
        (models[0].vision, models[0].loaded)
    };
    for (entry, vision) in [
        (r#""architecture":{"input_modalities":["text","image"],"output_modalities":["text"]}"#, Some(true)),
        (r#""architecture":{"input_modalities":["text"],"output_modalities":["image"]}"#, Some(false)),
        (r#""meta":{"input_modalities":["image"]}"#, Some(true)),
        (r#""meta":{"modalities":{"vision":true,"audio":false}}"#, Some(true)),
        (r#""modalities":{"vision":false}"#, Some(false)),
        (r#""meta":null,"architecture":"x","modalities":{}"#, None),
        (r#""object":"model""#, None),
    ] {
        assert_eq!(of(entry).0, vision, "{entry}");
    }
    for (state, loaded) in [("loaded", true), ("loading", true), ("unloaded", false), ("sleeping", false)] {
        assert_eq!(of(&format!(r#""status":{{"value":"{state}"}}"#)).1, Some(loaded), "{state}");
    }
    assert_eq!([of(r#""status":"loaded""#).1, of(r#""status":{"args":[]}"#).1], [None, None]);
}
