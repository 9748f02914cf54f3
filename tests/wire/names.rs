//! One name that does the right thing: edits, variants and patterns of a model, images, lengths, what is loaded.

use crate::support::proxy::{CHAT, Proxy, Setup, chat, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, Config, KeyText, Stabilize, Strategy, UnknownModel, load};
use llmproxy::util::secret::Secret;
use serde_json::{Value, json};

/// The section `models` of a file with the endpoints `a`, `b` and `c`.
fn models(section: &str) -> impl FnOnce(&mut Config) {
    let endpoints = "{name: a, address: h, port: 1}, {name: b, address: h, port: 2}, {name: c, address: h, port: 3}";
    let text = format!("endpoints: [{endpoints}]\nmodels: {section}\n");
    let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let loaded = load::parse("f.yml", &text, &|_| None, &no_file).unwrap_or_else(|problems| panic!("{problems:?}"));
    |config| config.models = loaded.config.models
}

fn serving(names: &[&str]) -> Upstream {
    let upstream = Upstream::serving(names);
    upstream.always(CHAT, Script::json("{}"));
    upstream
}

/// Which endpoint answered, what was sent as the model, and why.
fn served(proxy: &Proxy, body: impl AsRef<[u8]>) -> String {
    let answer = proxy.post(CHAT, body);
    let field = |name: &str| answer.field(name).unwrap_or("-").to_owned();
    match answer.status() {
        200 => format!("{} {} {}", field("x-llmproxy-endpoint"), field("x-llmproxy-model"), field("x-llmproxy-reason")),
        status => format!("{status} {}", answer.json()["error"]["message"].as_str().unwrap_or_default()),
    }
}

fn with_image(model: &str) -> String {
    let part = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}});
    json!({"model": model, "messages": [{"role": "user", "content": [part]}]}).to_string()
}

const EDITED: &str = r#"
  qwen:
    set: {chat_template_kwargs.enable_thinking: true, seed: 9007199254740993}
    default: {temperature: 0.7}
    remove: [user]
    variants:
      nothink: {set: {chat_template_kwargs.enable_thinking: false}}
      ":hot": {set: {temperature: 1.5}}
    match: ["gpt-*"]
"#;

#[test]
fn a_request_is_edited_in_place_on_its_way() {
    // Issue 14, section 2
    let upstream = serving(&["qwen"]);
    let proxy = Setup::over(&[&upstream]).with(models(EDITED)).start();
    let cases = [
        (
            r#"{ "model" : "qwen", "user":"me", "n":12345678901234567890123,"x":"\ud800" }"#,
            r#"{"chat_template_kwargs":{"enable_thinking":true},"seed":9007199254740993,"temperature":0.7, "model" : "qwen", "n":12345678901234567890123,"x":"\ud800" }"#,
        ),
        (
            r#"{"chat_template_kwargs":{"a":1},"model":"qwen-nothink","temperature":0,"seed":1}"#,
            r#"{"chat_template_kwargs":{"enable_thinking":false,"a":1},"model":"qwen","temperature":0,"seed":9007199254740993}"#,
        ),
        (
            r#"{"seed":1,"temperature":1,"chat_template_kwargs":{"enable_thinking":0},"model":"qwen:hot"}"#,
            r#"{"seed":9007199254740993,"temperature":1.5,"chat_template_kwargs":{"enable_thinking":true},"model":"qwen"}"#,
        ),
    ];
    for (body, sent) in cases {
        assert_eq!(served(&proxy, body), "a qwen model");
        assert_eq!(upstream.take(CHAT).text(), sent);
    }
    // The same model by its own name where it has no route.
    let other = serving(&["qwen"]);
    let plain = Setup::over(&[&other]).start();
    assert_eq!(served(&plain, r#"{"model":"qwen","user":1}"#), "a qwen model");
    assert_eq!(other.take(CHAT).text(), r#"{"model":"qwen","user":1}"#);
}

#[test]
fn a_model_is_edited_by_each_name_that_stands_for_it() {
    // A key for `m` may ask for `m:latest`, since both are one model.
    let ollama = serving(&["m:latest"]);
    let proxy = Setup::over(&[&ollama]).with(models("{m: {set: {a: 1}}}")).start();
    for name in ["m", "m:latest"] {
        assert_eq!(served(&proxy, format!(r#"{{"model":"{name}"}}"#)), "a m:latest model");
        assert_eq!(ollama.take(CHAT).text(), r#"{"a":1,"model":"m:latest"}"#, "{name}");
    }
    let llama = Upstream::start();
    llama.always("/v1/models", Script::json(r#"{"data":[{"id":"m","aliases":["nick"]}]}"#));
    llama.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&llama]).with(models("{m: {set: {a: 1}}}")).start();
    for name in ["m", "nick"] {
        assert!(served(&proxy, format!(r#"{{"model":"{name}"}}"#)).starts_with("a "));
        assert!(llama.take(CHAT).text().contains(r#""a":1"#), "{name}");
    }
}

#[test]
fn only_json_is_edited_and_what_cannot_be_read_is_refused_where_it_would_have_to_be() {
    let upstream = serving(&["qwen", "other"]);
    upstream.always("/v1/audio/transcriptions", Script::json("{}"));
    upstream.always("/slots", Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(models(EDITED)).start();
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nqwen-nothink\r\n--b--\r\n";
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n",
        form.len()
    );
    assert_eq!(proxy.ask(head + form).status(), 200);
    assert_eq!(upstream.take("/v1/audio/transcriptions").text(), form.replace("qwen-nothink", "qwen"));
    assert_eq!(proxy.get("/slots?model=qwen-nothink").status(), 200);
    assert_eq!(upstream.take("/slots").target(), "/slots?model=qwen");
    let sealed =
        |model: &str| proxy.ask(post_with(&format!("{CHAT}?model={model}"), "Content-Encoding: gzip\r\n", "zip"));
    assert_eq!([sealed("qwen").status(), sealed("gpt-5").status(), sealed("other").status()], [415, 415, 200]);
    // A body that says no model is edited as well.
    assert_eq!(proxy.post(&format!("{CHAT}?model=qwen-nothink"), r#"{"user":1,"seed":2}"#).status(), 200);
    assert_eq!(upstream.take(CHAT).text(), "zip");
    let sent = upstream.take(CHAT);
    assert_eq!(sent.target(), format!("{CHAT}?model=qwen"));
    let expected = r#"{"chat_template_kwargs":{"enable_thinking":false},"temperature":0.7,"seed":9007199254740993}"#;
    assert_eq!(sent.text(), expected);
}

#[test]
fn a_body_that_cannot_be_read_gets_no_default_model_whose_requests_are_edited() {
    let upstream = serving(&["qwen"]);
    let proxy = Setup::over(&[&upstream]).with(models(EDITED)).with(|config| {
        config.endpoints[0].default_model = Some("qwen".into());
        config.routing.unknown_model = UnknownModel::Default;
    });
    let proxy = proxy.start();
    assert_eq!(proxy.ask(post_with(&format!("{CHAT}?model=zzz"), "Content-Encoding: gzip\r\n", "zip")).status(), 415);
    assert_eq!(proxy.post(&format!("{CHAT}?model=zzz"), "{}").status(), 200);
    assert_eq!(upstream.count(CHAT), 1);
}

#[test]
fn variants_are_listed_and_patterns_are_not() {
    let upstream = serving(&["qwen", "gpt-4"]);
    let proxy = Setup::over(&[&upstream]).with(models(EDITED)).start();
    assert_eq!(proxy.models(), ["qwen", "gpt-4", "qwen-nothink", "qwen:hot"]);
    let entry = proxy.get("/v1/models/qwen-nothink").json();
    assert_eq!(
        (&entry["id"], &entry["root"], &entry["object"]),
        (&json!("qwen-nothink"), &json!("qwen"), &json!("model"))
    );
    assert_eq!(proxy.get("/v1/models/qwen:hot").json()["root"], "qwen");
    assert_eq!(proxy.get("/v1/models/gpt-5").status(), 404);
    // A served name comes before a pattern.
    assert_eq!([served(&proxy, chat("gpt-4")), served(&proxy, chat("gpt-5"))], ["a gpt-4 model", "a qwen model"]);
    assert_eq!(upstream.take(CHAT).text(), chat("gpt-4"));
    assert!(upstream.take(CHAT).text().contains(r#""seed":9007199254740993,"temperature":0.7,"model":"qwen""#));
}

/// A key for one model, of the same text as its name.
fn key(name: &str, model: &str) -> ClientKey {
    let text = KeyText::Plain(Secret::new(name));
    ClientKey { models: vec![model.to_owned()], ..ClientKey::plain(name, text) }
}

#[test]
fn a_key_may_ask_for_a_variant_by_its_name_or_that_of_its_model() {
    let upstream = serving(&["qwen"]);
    let keys = vec![key("base", "qwen"), key("variant", "qwen-nothink"), key("pattern", "gpt-*")];
    let proxy = Setup::over(&[&upstream]).with(models(EDITED)).with(|config| config.keys = keys).start();
    let status = |key: &str, model: &str| {
        proxy.ask(post_with(CHAT, &format!("Authorization: Bearer {key}\r\n"), chat(model))).status()
    };
    let all = ["qwen", "qwen-nothink", "gpt-5"];
    assert_eq!(all.map(|model| status("base", model)), [200, 200, 404]);
    assert_eq!(all.map(|model| status("variant", model)), [404, 200, 404]);
    assert_eq!(all.map(|model| status("pattern", model)), [404, 404, 200]);
    let listed = |key: &str| -> Vec<String> {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n");
        let list = proxy.ask(head).json();
        let entries = list["data"].as_array().expect("a list").iter();
        entries.map(|entry| entry["id"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(listed("base"), ["qwen", "qwen-nothink", "qwen:hot"], "a variant is seen with its model");
    assert_eq!(listed("variant"), ["qwen-nothink"]);
    assert_eq!(listed("pattern"), [""; 0]);
}

#[test]
fn a_route_without_backends_goes_where_its_name_is_served_and_is_unknown_otherwise() {
    let (first, second) = (serving(&["m:latest"]), serving(&["other"]));
    let proxy = Setup::over(&[&first, &second]).with(models("{m: {set: {a: 1}, strategy: rr}}")).start();
    assert_eq!(served(&proxy, r#"{"model":"m"}"#), "a m:latest model");
    assert_eq!(first.take(CHAT).text(), r#"{"a":1,"model":"m:latest"}"#);
    first.set_models(&["gone"]);
    second.set_models(&["m"]);
    proxy.force_check();
    assert_eq!(served(&proxy, r#"{"model":"m"}"#), "b m model");
    second.set_models(&["other"]);
    proxy.force_check();
    assert!(served(&proxy, r#"{"model":"m"}"#).starts_with("404 "));
    // Served again since: found by a refresh.
    assert!(!proxy.models().contains(&"m".to_owned()));
}

#[test]
fn images_go_to_the_backend_that_takes_them_in_100_of_100() {
    // Issue 14, shows 2
    let (text, sees) = (serving(&["small"]), serving(&["large"]));
    for strategy in
        [Strategy::Failover, Strategy::RoundRobin, Strategy::LeastBusy, Strategy::Random, Strategy::Affinity]
    {
        let section =
            "{m: {backends: [{endpoint: a, model: small, vision: false}, {endpoint: b, model: large, vision: true}]}}";
        let proxy = Setup::over(&[&text, &sees]).with(models(section)).with(|c| c.routing.strategy = strategy).start();
        for _ in 0..20 {
            assert_eq!(served(&proxy, with_image("m")), "b large vision", "{strategy:?}");
        }
    }
    assert_eq!((text.count(CHAT), sees.count(CHAT)), (0, 100));
}

#[test]
fn what_a_server_says_of_images_is_believed_and_a_refusal_names_what_could_be_asked() {
    let router = |id: &str, input: &[&str]| {
        let upstream = Upstream::start();
        let entry = json!({"id": id, "architecture": {"input_modalities": input}});
        upstream.always("/v1/models", Script::json(json!({"data": [entry]}).to_string()));
        upstream.always(CHAT, Script::json("{}"));
        upstream
    };
    let (text, sees, props) = (router("t", &["text"]), router("v", &["text", "image"]), serving(&["t"]));
    props.always("/props", Script::json(r#"{"total_slots":4,"modalities":{"vision":false,"audio":false}}"#));
    let proxy =
        Setup::over(&[&text, &props, &sees]).with(models("{eyes: {backends: [{endpoint: c, model: v}]}}")).start();
    let refused = proxy.post(CHAT, with_image("t"));
    let error = &refused.json()["error"];
    assert_eq!((refused.status(), &error["type"]), (400, &json!("invalid_request_error")));
    assert_eq!(error["message"], "The model `t` takes no images; these do: `v`, `eyes`.");
    assert_eq!([served(&proxy, with_image("v")), served(&proxy, chat("t"))], ["c v model", "a t model"]);
    // A server that says nothing may be asked.
    let silent = serving(&["t"]);
    let proxy = Setup::over(&[&text, &silent]).start();
    assert_eq!(served(&proxy, with_image("t")), "b t vision");
    // A word in a text is no image.
    assert_eq!(served(&proxy, r#"{"model":"t","messages":[{"content":"\"type\":\"image_url\""}]}"#), "a t model");
}

#[test]
fn short_prompts_prefer_the_backend_for_them_and_a_context_error_still_moves_on() {
    let (large, small) = (serving(&["m"]), serving(&["m"]));
    for (upstream, size) in [(&large, 65_536), (&small, 4096)] {
        let props = json!({"total_slots": 1, "default_generation_settings": {"n_ctx": size}});
        upstream.always("/props", Script::json(props.to_string()));
    }
    let section = "{m: {backends: [{endpoint: a}, {endpoint: b, under: 1k}]}}";
    let proxy = Setup::over(&[&large, &small]).with(models(section)).start();
    let of = |bytes: usize| {
        let empty = json!({"model": "m", "prompt": ""}).to_string();
        json!({"model": "m", "prompt": "x".repeat(bytes - empty.len())}).to_string()
    };
    assert_eq!(served(&proxy, of(3999)), "b m under");
    assert_eq!(served(&proxy, of(4000)), "a m model");
    let too_long = r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#;
    small.on(CHAT, Script::answer(400, &[("Content-Type", "application/json")], too_long));
    assert_eq!(served(&proxy, of(100)), "a m context");
}

#[test]
fn a_conversation_leaves_the_backend_for_short_prompts_when_it_has_grown() {
    let (large, small) = (serving(&["m"]), serving(&["m"]));
    let section = "{m: {strategy: affinity, backends: [{endpoint: a}, {endpoint: b, under: 1k}]}}";
    let proxy = Setup::over(&[&large, &small]).with(models(section)).start();
    let turn = |n: usize, bytes: usize| {
        let message = |n| json!({"role": "user", "content": format!("{n}{}", "x".repeat(bytes))});
        json!({"model": "m", "messages": (0..n).map(message).collect::<Vec<_>>()}).to_string()
    };
    let told = [1, 2, 3].map(|n| served(&proxy, turn(n, 1000)));
    assert_eq!(told, ["b m under", "b m affinity", "b m affinity"]);
    assert_eq!([served(&proxy, turn(4, 1000)), served(&proxy, turn(5, 1000))], ["a m under", "a m affinity"]);
}

#[test]
fn a_server_that_has_the_model_loaded_comes_first() {
    // Issue 14, section 2: Ollama's and LM Studio's answers, and llama-server's router.
    let ollama = Upstream::start();
    let entry = |owner: &str| json!({"data": [{"id": "m:latest", "owned_by": owner}, {"id": "n", "owned_by": owner}]});
    ollama.always("/v1/models", Script::json(entry("library").to_string()));
    ollama.always("/api/ps", Script::json(r#"{"models":[{"name":"n","model":"n","size_vram":1}]}"#));
    let studio = Upstream::start();
    studio.always("/v1/models", Script::json(entry("organization_owner").to_string()));
    let models = json!({"models": [{"type": "llm", "key": "m:latest", "loaded_instances": [{"id": "m:latest"}]}, {"key": "n", "loaded_instances": []}]});
    studio.always("/api/v1/models", Script::json(models.to_string()));
    let router = Upstream::start();
    let state = |state: &str| {
        json!({"data": [{"id": "m:latest", "status": {"value": state}}, {"id": "n", "status": {"value": "loading"}}]})
            .to_string()
    };
    router.always("/v1/models", Script::json(state("sleeping")));
    for upstream in [&ollama, &studio, &router] {
        upstream.always(CHAT, Script::json("{}"));
    }
    let proxy = Setup::over(&[&ollama, &router, &studio]).start();
    assert_eq!(served(&proxy, chat("m")), "c m:latest loaded");
    assert_eq!(served(&proxy, chat("n")), "a n model");
    router.always("/v1/models", Script::json(state("loaded")));
    proxy.force_check();
    assert_eq!(served(&proxy, chat("m")), "b m:latest loaded");
    assert_eq!(served(&proxy, chat("n")), "a n model");
    assert_eq!((studio.count("/api/ps"), ollama.count("/api/v1/models"), router.count("/api/ps")), (0, 0, 0));
}

#[test]
fn a_server_that_does_not_tell_what_is_loaded_is_asked_once() {
    let upstream = Upstream::start();
    let list = json!({"data": [{"id": "m", "owned_by": "library"}]});
    upstream.always("/v1/models", Script::json(list.to_string()));
    upstream.always("/api/ps", Script::error(404, "no"));
    upstream.always(CHAT, Script::json("{}"));
    let other = serving(&["m"]);
    let loaded = json!({"data": [{"id": "m", "status": {"value": "loaded"}}]});
    other.always("/v1/models", Script::json(loaded.to_string()));
    let proxy = Setup::over(&[&upstream, &other]).start();
    // The second of these rounds is late enough for such a question.
    proxy.force_check();
    proxy.force_check();
    assert_eq!(upstream.count("/api/ps"), 1);
    assert_eq!(served(&proxy, chat("m")), "a m model", "unknown counts as loaded");
}

#[test]
fn claude_codes_line_is_the_same_in_every_request_where_that_is_wanted() {
    // Issue 14, section 1
    let body = |model: &str, version: &str, checksum: &str, turn: usize| {
        let line =
            format!("x-anthropic-billing-header: cc_version=2.1.42.{version}; cc_entrypoint=cli; cch={checksum};");
        let messages: Vec<Value> =
            (0..turn).map(|n| json!({"role": "user", "content": format!("{n} {line}")})).collect();
        let system = json!([{"type": "text", "text": line}, {"type": "text", "text": "You are Claude Code"}]);
        json!({"model": model, "system": system, "messages": messages}).to_string()
    };
    let (plain, stable) = (Upstream::serving(&["m", "n"]), Upstream::serving(&["o"]));
    let setup = Setup::over(&[&plain, &stable]).with(models("{m: {stabilize: claude-code}}"));
    let proxy = setup.with(|config| config.endpoints[1].stabilize = Some(Stabilize::ClaudeCode)).start();
    for (upstream, model, is_stable) in [(&plain, "m", true), (&plain, "n", false), (&stable, "o", true)] {
        upstream.always("/v1/messages", Script::json("{}"));
        let turns = [("834", "65abc"), ("0d9", "fa690"), ("0d9", "00001")].map(|(version, checksum)| {
            let given = body(model, version, checksum, 1);
            assert_eq!(proxy.post("/v1/messages?beta=true", &given).status(), 200);
            let sent = upstream.take("/v1/messages").text().to_owned();
            let expected =
                if is_stable { given.replacen(&format!("2.1.42.{version}"), "2.1.42.000", 1) } else { given.clone() };
            let zeros = format!("cch={checksum}");
            let expected = if is_stable { expected.replacen(&zeros, "cch=00000", 1) } else { expected };
            assert_eq!(sent, expected);
            sent.split("\"messages\"").next().unwrap_or_default().to_owned()
        });
        assert_eq!(turns[0] == turns[1] && turns[1] == turns[2], is_stable, "{model}");
    }
}

#[cfg(feature = "jobs")]
#[test]
fn a_job_is_edited_as_well() {
    let (folder, upstream) = (crate::jobs::Folder::new(), serving(&["qwen"]));
    let proxy = crate::jobs::start(&folder, &upstream, models(EDITED));
    let id = crate::jobs::submit(
        &proxy,
        chat("qwen-nothink").replace('{', "{\"user\":\"u\",").replacen("\"user\":\"u\",", "", 2),
    );
    upstream.wait_count(CHAT, 1);
    let sent = upstream.take(CHAT).text().to_owned();
    assert!(
        sent.starts_with(r#"{"chat_template_kwargs":{"enable_thinking":false},"seed":9007199254740993,"#),
        "{sent} {id}"
    );
    assert!(sent.contains(r#""model":"qwen","#));
}

#[cfg(feature = "jobs")]
#[test]
fn a_key_may_submit_a_job_for_what_it_may_ask_for() {
    let (folder, upstream) = (crate::jobs::Folder::new(), serving(&["qwen", "n:latest"]));
    let keys = vec![key("base", "qwen"), key("variant", "qwen-nothink"), key("pattern", "gpt-*"), key("bare", "n")];
    let proxy = crate::jobs::start(&folder, &upstream, |config| {
        models(EDITED)(config);
        config.keys = keys;
    });
    let status = |key: &str, later: &str, model: &str| {
        let head = format!("Authorization: Bearer {key}\r\n{later}");
        proxy.ask(post_with(CHAT, &head, chat(model))).status()
    };
    for key in ["base", "variant", "pattern", "bare"] {
        for model in ["qwen", "qwen-nothink", "gpt-5", "n:latest", "n", "nothing"] {
            let submitted = if status(key, "", model) == 200 { 202 } else { 404 };
            assert_eq!(status(key, crate::jobs::LATER, model), submitted, "{key} {model}");
        }
    }
    assert_eq!([status("base", "", "auto"), status("base", crate::jobs::LATER, "auto")], [200, 202]);
}

#[cfg(all(feature = "admin", feature = "jobs"))]
#[test]
fn the_page_keeps_what_a_route_has_beside_its_backends_and_writes_no_more() {
    // Issue 14, section 2
    use crate::admin::{on_disk, put, start};
    let (folder, upstream) = (crate::jobs::Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &[&upstream], |_| ());
    let more = json!({
        "Set": {"seed": 9007199254740993_u64, "prompt_cache_key": "text"}, "Default": {"k.e": null}, "Remove": ["user"],
        "Variants": {"low": {"Set": {"max_tokens": 5, "token": "t"}}}, "Match": ["gpt-*"], "Stabilize": "claude-code",
    });
    let mut model = json!({"Strategy": "Failover", "Backends": [{"Name": "x", "Endpoint": "a", "ApiKeys": [], "BackendModelName": "m",
        "Weight": 1, "Enabled": true, "Under": "4k", "Vision": false}]});
    model.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    assert_eq!(put(&proxy, "new", &model).status(), 200);
    assert_eq!(on_disk(&folder)["Models"]["new"], model);
    let shown = proxy.get("/admin/config").json()["Models"]["new"].clone();
    assert_eq!(shown, model, "no value of a request is a secret");
    assert_eq!(put(&proxy, "new", &shown).status(), 200);
    assert_eq!(on_disk(&folder)["Models"]["new"], model);
    assert_eq!(proxy.post(CHAT, r#"{"model":"new-low","user":1,"k":{}}"#).status(), 200);
    let sent =
        r#"{"seed":9007199254740993,"prompt_cache_key":"text","max_tokens":5,"token":"t","model":"m","k":{"e":null}}"#;
    assert_eq!(upstream.take(CHAT).text(), sent);
    let ids: Vec<_> = proxy.get("/admin/status").json()["models"]
        .as_array()
        .expect("models")
        .iter()
        .map(|one| one["id"].clone())
        .collect();
    assert!(ids.contains(&json!("new-low")), "{ids:?}");
    // Nothing of it where nothing is given.
    let empty =
        json!({"Backends": [{"Endpoint": "a", "Under": null, "Vision": ""}], "Set": {}, "Remove": [], "Match": null});
    assert_eq!(put(&proxy, "plain", &empty).status(), 200);
    let plain = on_disk(&folder)["Models"]["plain"].clone();
    assert_eq!(plain.as_object().expect("an object").keys().collect::<Vec<_>>(), ["Strategy", "Backends"]);
    assert_eq!(plain["Backends"][0].as_object().expect("an object").len(), 6);
    // What is wrong is told with its place.
    let wrong = put(&proxy, "wrong", &json!({"Variants": {"x": {"Set": {"model": 1}}}, "Match": ["y"]})).json();
    let details = wrong["error"]["details"].as_array().expect("details").clone();
    assert_eq!(details[0]["path"], "variants[x].set[model]", "{wrong}");
}
