//! `models.NAME` beyond its backends: edits, variants, patterns, and what is said when two of them clash.

use crate::{ONE, complaint, good, with, wrong};
use llmproxy::config::{Stabilize, load, print};
use serde_json::json;

const RICH: &str = r#"
endpoints: [{name: a, address: h, port: 1, stabilize: claude-code}]
models:
  qwen:
    set: {temperature: 0.70, seed: 18446744073709551615, min: -9223372036854775808, big: 9007199254740993, one: 1.0, tiny: 1.0e-7,
      "yes": "no", "a b": [null, true, {x: "a: $$b", "y.z": ""}], chat_template_kwargs.enable_thinking: false, "null": null}
    default: {top_p: 1, "é\"": "\u2028"}
    remove: [user, extra.inner]
    variants:
      nothink: {set: {chat_template_kwargs.enable_thinking: true}, remove: [temperature]}
      ":x": {default: {user: u}}
      "4": {}
    match: ["gpt-*", "*: x"]
    stabilize: claude-code
  fast: {backends: [{endpoint: a, under: 4k, vision: false}, {endpoint: a, under: 1234, vision: true}, {endpoint: a}]}
"#;

#[test]
fn what_is_said_of_a_model_is_read_as_it_is_written() {
    let config = good(RICH);
    let route = &config.models[0];
    let set = |name: &str| route.edits.set.get(name).map(ToString::to_string);
    for (name, value) in [
        ("temperature", "0.7"),
        ("seed", "18446744073709551615"),
        ("min", "-9223372036854775808"),
        ("big", "9007199254740993"),
        ("one", "1.0"),
        ("tiny", "1e-7"),
        ("yes", "\"no\""),
        ("a b", r#"[null,true,{"x":"a: $b","y.z":""}]"#),
        ("chat_template_kwargs.enable_thinking", "false"),
        ("null", "null"),
    ] {
        assert_eq!(set(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(json!(route.edits.default), json!({"top_p": 1, "é\"": "\u{2028}"}));
    assert_eq!(route.edits.remove, ["user", "extra.inner"]);
    let names: Vec<_> = route.names().collect();
    assert_eq!(names, ["qwen", "qwen-nothink", "qwen:x", "qwen-4"]);
    assert_eq!(route.variants[0].edits.remove, ["temperature"]);
    assert_eq!((&*route.patterns[0], route.stabilize), ("gpt-*", Some(Stabilize::ClaudeCode)));
    assert!(route.is_discovered() && !config.models[1].is_discovered());
    let backends = config.models[1].backends.iter().map(|one| (one.under, one.vision));
    assert_eq!(backends.collect::<Vec<_>>(), [(Some(4000), Some(false)), (Some(1234), Some(true)), (None, None)]);
    assert_eq!(config.endpoints[0].stabilize, Some(Stabilize::ClaudeCode));
}

#[test]
fn what_is_said_of_a_model_is_printed_and_read_back() {
    let config = good(RICH);
    let printed = print::yaml(&config);
    assert_eq!(good(&printed), config, "{printed}");
    for part in ["seed: 18446744073709551615", "one: 1.0", "stabilize: claude-code", "under: 4000", "match:"] {
        assert!(printed.contains(part), "{part}\n{printed}");
    }
}

#[test]
fn one_of_the_further_keys_is_enough_without_backends() {
    let more =
        ["set: {a: 1}", "default: {a: 1}", "remove: [a]", "variants: {x: {}}", "match: [x]", "stabilize: claude-code"];
    for key in more {
        assert!(with(&format!("models: {{m: {{{key}}}}}")).models[0].is_discovered(), "{key}");
        assert!(
            !with(&format!("models: {{m: {{{key}, backends: [{{endpoint: a}}]}}}}")).models[0].is_discovered(),
            "{key}"
        );
    }
    for nothing in ["set: {}", "remove: []", "variants: {}", "match: []", "stabilize: null", "strategy: rr"] {
        assert_eq!(complaint(&format!("models: {{m: {{{nothing}}}}}")), "models[m].backends: is missing");
    }
}

#[test]
fn what_cannot_be_edited_is_told_where_it_stands() {
    let kept = "cannot be edited: it decides where a request goes or how its answer is read";
    let shape = "is not the name of a member, `a`, or of one inside it, `a.b`";
    for name in ["model", "stream", "messages", "prompt", "input", "webhookUrl", "Model", "messages.0"] {
        assert_eq!(
            complaint(&format!("models: {{m: {{set: {{{name}: 1}}, match: [x]}}}}")),
            format!("models[m].set[{name}]: {name:?} {kept}")
        );
        let line = complaint(&format!("models: {{m: {{variants: {{v: {{remove: [{name}]}}}}}}}}"));
        assert_eq!(line, format!("models[m].variants[v].remove[0]: {name:?} {kept}"));
    }
    for name in ["a.b.c", ".a", "a.", "\"\""] {
        let line = complaint(&format!("models: {{m: {{default: {{{name}: 1}}, match: [x]}}}}"));
        assert!(line.ends_with(shape), "{line}");
    }
    for (section, expected) in [
        ("{set: {a: 1}, remove: [a]}", "models[m]: \"a\" is edited twice; keep one"),
        ("{set: {a: 1}, default: {a.b: 1}}", "models[m]: \"a\" and \"a.b\" edit the same member; keep one"),
        (
            "{variants: {v: {default: {a.b: 1}, remove: [a]}}}",
            "models[m].variants[v]: \"a.b\" and \"a\" edit the same member; keep one",
        ),
        ("{set: {a: 1, a: 2}}", "models[m].set[a]: is given twice; keep one"),
        ("{set: {a: {b: 1, b: 2}}}", "models[m].set[a]: has \"b\" twice; keep one"),
        ("{set: {a: \"${UNSET_VARIABLE}\"}, match: [x]}", "models[m].set[a]: "),
        (
            "{set: {a: 18446744073709551616}}",
            "models[m].set[a]: is a whole number of more than 64 bits, which would be rounded",
        ),
        ("{set: {a: [-9223372036854775809]}}", "models[m].set[a]: is a whole number of more than 64 bits"),
        ("{set: {a: .nan}}", "models[m].set[a]: is not a finite number"),
        ("{default: {a: [-.inf]}}", "models[m].default[a]: is not a finite number"),
        ("{set: [a], match: [x]}", "models[m].set: a list is not a map of `name: ...`"),
        (
            "{remove: a, match: [x]}",
            "models[m].remove: \"a\" is not a list; begin each item with `- `, or write [a, b]",
        ),
        ("{variants: {v: {sets: {}}}}", "models[m].variants[v].sets: unknown key; did you mean `set`?"),
        ("{variants: {\"\": {}}}", "models[m].variants[]: the name \"\" is empty"),
        ("{stabilize: claude}", "models[m].stabilize: \"claude\" is not one of claude-code"),
    ] {
        let line = complaint(&format!("models: {{m: {section}}}"));
        assert!(line.starts_with(expected), "{line}");
    }
    // Within a level only: a variant may say something else than its model.
    with("models: {m: {set: {a: 1}, variants: {v: {remove: [a]}, w: {set: {a.b: 1}}}}}");
}

#[test]
fn edits_are_bounded_in_number_and_size() {
    let many = |n: usize| (0..n).map(|n| format!("m{n}: 1")).collect::<Vec<_>>().join(", ");
    let large = |n: usize| format!("x: \"{}\"", "y".repeat(n));
    for (edits, fits) in [(many(64), true), (many(65), false), (large(65_000), true), (large(65_536), false)] {
        let text = format!("{ONE}models: {{m: {{set: {{{edits}}}}}}}\n");
        match fits {
            true => assert_eq!(good(&text).models.len(), 1),
            false => assert!(wrong(&text)[0].contains("edits more than 64 members, or gives them more than 64 KiB")),
        }
    }
}

#[test]
fn names_that_clash_are_told() {
    // Issue 14, section 2: `--check` names conflicts.
    let cases = [
        (
            "{m: {variants: {x: {}}}, m-x: {backends: [{endpoint: a}]}}",
            "models[m].variants[x]: gives the name \"m-x\", which `models[m-x]` has too; rename one",
        ),
        (
            "{m: {variants: {x: {}, -x: {}}}}",
            "models[m].variants[-x]: gives the name \"m-x\", which `models[m]` has too; rename one",
        ),
        (
            "{m: {variants: {a-b: {}}}, m-a: {variants: {b: {}}}}",
            "models[m-a].variants[b]: gives the name \"m-a-b\", which `models[m]` has too; rename one",
        ),
        (
            "{m: {match: [x, \"gpt-*\"]}, n: {match: [\"gpt-*\", y]}}",
            "models[n].match: \"gpt-*\" never counts: it also stands in `models[m]`, which comes first",
        ),
    ];
    for (models, expected) in cases {
        assert_eq!(complaint(&format!("models: {models}")), expected);
    }
    with("models: {m: {match: [x, x], variants: {x: {}}}, n: {match: [\"gpt-*\"], variants: {x: {}}}}");
}

#[test]
fn patterns_that_never_count_are_told() {
    // Issue 14, section 2: `--check` names conflicts. Exact names come before patterns, patterns in the order of the file.
    let models = "{m: {match: [\"g*4\", \"*\"], variants: {x: {}}}, n: {match: [\"gpt-*\", m-x, \"gpt-4*4\"]}}";
    let warnings = |models: &str| {
        let text = format!("{ONE}models: {models}\n");
        load::parse("f.yml", &text, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().warnings
    };
    let expected = [
        "models[n].match: \"gpt-*\" never counts: \"*\" of `models[m]`, which comes first, matches the same names",
        "models[n].match: \"m-x\" never counts: it is a name of `models[m]`",
        "models[n].match: \"m-x\" never counts: \"*\" of `models[m]`, which comes first, matches the same names",
        "models[n].match: \"gpt-4*4\" never counts: \"g*4\" of `models[m]`, which comes first, matches the same names",
    ];
    assert_eq!(warnings(models), expected);
    let [warning] = warnings("{m: {match: [n-x]}, n: {variants: {x: {}}}}").try_into().expect("one");
    assert_eq!(warning, "models[m].match: \"n-x\" never counts: it is a name of `models[n]`");
    assert_eq!(warnings("{m: {match: [\"gpt-4*\"]}, n: {match: [\"gpt-*\"]}}"), [""; 0]);
}

#[test]
fn a_variant_that_hides_a_model_of_the_file_is_told() {
    let text = "endpoints: [{name: a, address: h, port: 1, models: [m, m-x]}]\nmodels: {m: {variants: {x: {}}}}\n";
    let loaded = llmproxy::config::load::parse("f.yml", text, &crate::variable, &crate::file).expect("a warning only");
    assert!(loaded.warnings.iter().any(|line| line.contains("m-x")), "{:?}", loaded.warnings);
}

#[test]
fn a_number_of_tokens_is_a_number_or_says_thousands() {
    let under = |text: &str| format!("models: {{m: {{backends: [{{endpoint: a, under: {text}}}]}}}}");
    for (text, tokens) in [("1", 1), ("4k", 4000), ("128K", 128_000), ("\"32 k\"", 32_000), ("\"5\"", 5)] {
        assert_eq!(with(&under(text)).models[0].backends[0].under, Some(tokens), "{text}");
    }
    for text in ["0", "-1", "1.5", "k", "4M", "4kk", "99999999999999999999k", "[]x"] {
        let line = complaint(&under(text));
        assert!(
            text == "[]x" || line.ends_with("is not a number of tokens (1 to 1000000000); write 4000 or 4k"),
            "{line}"
        );
    }
}

#[cfg(feature = "legacy")]
#[test]
fn format_003_says_the_same_in_its_own_spelling() {
    let text = json!({"Models": {"m": {
        "Strategy": "Failover",
        "Backends": [{"BaseUrl": "http://h:1/v1", "Under": "4k", "Vision": true}, {"BaseUrl": "http://h:2/v1"}],
        "Set": {"Temperature": 0.5, "seed": 9007199254740993_u64}, "Default": {"k.e": null}, "Remove": ["User"],
        "Variants": {"X": {"Set": {"a": 1}}}, "Match": ["gpt-*"], "Stabilize": "claude-code",
    }, "n": {"Match": ["llama*"]}}});
    let config = good(&text.to_string());
    let route = &config.models[0];
    assert_eq!(json!(route.edits.set), json!({"Temperature": 0.5, "seed": 9_007_199_254_740_993_u64}));
    assert_eq!((json!(route.edits.default), &*route.edits.remove[0]), (json!({"k.e": null}), "User"));
    assert_eq!(route.variants[0].ending(), "-X");
    assert_eq!((&*route.patterns[0], route.stabilize), ("gpt-*", Some(Stabilize::ClaudeCode)));
    assert_eq!((route.backends[0].under, route.backends[0].vision), (Some(4000), Some(true)));
    assert!(config.models[1].is_discovered());
    assert_eq!(good(&print::yaml(&config)).models, config.models);
    let clash = json!({"Models": {"m": {"Variants": {"x": {}}}, "m-x": {"Match": ["y"]}}});
    assert!(wrong(&clash.to_string())[0].contains("gives the name \"m-x\""));
    let kept = json!({"Models": {"m": {"Set": {"stream": true}, "Match": ["y"]}}});
    assert!(wrong(&kept.to_string())[0].contains("cannot be edited"));
}
