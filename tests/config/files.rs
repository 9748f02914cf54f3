//! Real files: missing, unreadable, too large, readable by all, and secrets beside them.

use llmproxy::config::load::{self, LoadError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of one test, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("llmproxy-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn code(error: &LoadError) -> u8 {
    error.exit_code()
}

#[test]
fn a_missing_file_and_a_directory_are_66() {
    // D5
    let folder = Folder::new();
    let missing = load::load(&folder.0.join("none.yml")).unwrap_err();
    assert!(code(&missing) == 66 && missing.to_string().ends_with("none.yml: no such file"), "{missing}");
    let directory = load::load(&folder.0).unwrap_err();
    assert!(code(&directory) == 66 && directory.to_string().contains("is a directory"), "{directory}");
    let beneath = load::load(&folder.file("a.yml", "", 0o600).join("b.yml")).unwrap_err();
    assert_eq!(code(&beneath), 66);
}

#[test]
fn an_unreadable_file_is_77() {
    // D5. Root reads everything, so the kernel is asked for what even root cannot read.
    let error = load::load(PathBuf::from("/proc/self/mem").as_path()).unwrap_err();
    assert!(code(&error) == 77 && error.to_string().starts_with("/proc/self/mem: cannot be read: "), "{error}");
}

#[test]
fn more_than_one_mebibyte_and_what_is_no_text_are_78() {
    // D5
    let folder = Folder::new();
    let large = load::load(&folder.file("large.yml", "#".repeat((1 << 20) + 1), 0o600)).unwrap_err();
    assert!(code(&large) == 78 && large.to_string().contains("larger than 1 MiB"), "{large}");
    let exact = load::load(&folder.file("exact.yml", "#".repeat(1 << 20), 0o600)).unwrap_err();
    assert!(!exact.to_string().contains("larger"), "{exact}");
    let latin = load::load(&folder.file("latin.yml", b"a: 1\nb: K\xfcche\n", 0o600)).unwrap_err();
    assert!(code(&latin) == 78 && latin.to_string().contains("latin.yml:2:5: is not UTF-8"), "{latin}");
}

#[test]
fn every_problem_of_a_bad_file_is_a_line_with_its_place() {
    // D1, D2
    let folder = Folder::new();
    let path = folder.file("bad.yml", "endpoints: [{name: a, address: h, port: 0}]\nserwer: {}\n", 0o600);
    let error = load::load(&path).unwrap_err();
    assert_eq!(
        (code(&error), error.to_string()),
        (
            78,
            format!(
                "{0}:1:41: endpoints[0].port: 0 is not a port (1 to 65535)\n\
                 {0}:2:1: serwer: unknown key; did you mean `server`?",
                path.display()
            )
        )
    );
}

#[test]
fn a_secret_is_read_from_a_file_beside_the_configuration() {
    let folder = Folder::new();
    folder.file("key", "sk-1\r\n", 0o600);
    let text = "endpoints: [{name: a, address: h, port: 1, apiKeyFile: key}]";
    let loaded = load::load(&folder.file("c.yml", text, 0o644)).unwrap();
    assert_eq!(loaded.config.endpoints[0].api_keys[0].reveal(), "sk-1");
    assert!(loaded.warnings.is_empty(), "the secret does not stand in the readable file");
    let text = "endpoints: [{name: a, address: h, port: 1, apiKeyFile: nokey}]";
    let error = load::load(&folder.file("d.yml", text, 0o600)).unwrap_err();
    assert!(error.to_string().contains("the file \"nokey\" cannot be read: No such file"), "{error}");
    folder.file("huge", "k".repeat(70_000), 0o600);
    let text = "endpoints: [{name: a, address: h, port: 1, apiKeyFile: huge}]";
    let error = load::load(&folder.file("e.yml", text, 0o600)).unwrap_err();
    assert!(error.to_string().contains("larger than 64 KiB"), "{error}");
}

#[test]
fn a_secret_in_a_file_that_everybody_reads_is_a_warning() {
    // D6
    let folder = Folder::new();
    let secret = "endpoints: [{name: a, address: h, port: 1, apiKey: canary}]";
    let open = load::load(&folder.file("open.yml", secret, 0o644)).unwrap();
    let [warning] = open.warnings.try_into().unwrap();
    assert!(warning.contains("endpoints[0].apiKey") && warning.contains("chmod 600"), "{warning}");
    assert!(!warning.contains("canary"), "{warning}");
    let closed = load::load(&folder.file("closed.yml", secret, 0o640)).unwrap();
    assert!(closed.warnings.is_empty());
    for harmless in [
        "apiKey: \"${PATH}\"",
        "headers: [{op: insert, key: x-title, value: t}]",
        "proxy: \"http://h:3128\"",
        "apiKey: \"${NO_SUCH_VARIABLE:-local}\"",
    ] {
        let text = format!("endpoints: [{{name: a, address: h, port: 1, {harmless}}}]");
        let loaded = load::load(&folder.file("harmless.yml", &text, 0o644)).unwrap();
        assert!(loaded.warnings.is_empty(), "{harmless}: {:?}", loaded.warnings);
    }
    for held in [
        "headers: [{op: insert, key: x-api-key, value: t}]",
        "proxy: \"http://u:p@h:3128\"",
        "auth: {type: basic, username: u, password: p}",
        "apiKeys: [a, b]",
    ] {
        let text = format!("endpoints: [{{name: a, address: h, port: 1, {held}}}]");
        let loaded = load::load(&folder.file("held.yml", &text, 0o644)).unwrap();
        assert_eq!(loaded.warnings.len(), 1, "{held}");
    }
}

#[test]
fn endpoints_that_are_all_switched_off_are_a_warning() {
    let folder = Folder::new();
    let text = "endpoints: [{name: a, address: h, port: 1, enabled: false}]";
    let loaded = load::load(&folder.file("off.yml", text, 0o644)).unwrap();
    assert_eq!(loaded.warnings, ["every endpoint is switched off (`enabled: false`)"]);
}

#[cfg(feature = "admin")]
#[test]
fn files_of_secrets_that_every_user_can_read_are_warned_of() {
    // U33
    let folder = Folder::new();
    let routes = |keys: &str, mode| {
        let text = format!(
            "// mine\n{{\"Models\": {{\"m\": {{\"Backends\": [{{\"BaseUrl\": \"http://h:1\", \"ApiKeys\": [{keys}]}}]}}}}}}"
        );
        folder.file("routes.json", text, mode)
    };
    folder.file("key.txt", "a key of some length", 0o644);
    folder.file("own.txt", "another key of some length", 0o600);
    folder.file("ca.pem", "-----BEGIN CERTIFICATE-----\n", 0o644);
    let load = |text: &str| {
        let loaded = load::load(&folder.file("a.yml", text, 0o600)).unwrap();
        assert!(!format!("{:?}", loaded.warnings).contains("some length"));
        loaded.warnings
    };
    let one = "endpoints: [{name: a, address: h, port: 1";
    let about = |warnings: &[String], name: &str| {
        warnings.iter().filter(|text| text.contains(name) && text.contains("every user of this machine")).count()
    };
    let warnings = load(&format!("{one}, apiKeyFile: key.txt}}]\nauth: {{keys: [{{name: k, keyFile: own.txt}}]}}\n"));
    assert_eq!((about(&warnings, "key.txt"), about(&warnings, "own.txt")), (1, 0), "{warnings:?}");
    let warnings =
        load(&format!("{one}}}]\nadmin: {{tokenFile: key.txt}}\nauth: {{keys: [{{name: k, keyFile: own.txt}}]}}\n"));
    assert_eq!(about(&warnings, "key.txt"), 1, "{warnings:?}");
    let page =
        |path: PathBuf| format!("{one}}}]\nadmin: {{enabled: true, routesFile: {:?}}}\n", path.display().to_string());
    for (keys, mode, wanted) in [("\"sk-1\"", 0o644, 1), ("\"sk-1\"", 0o600, 0), ("", 0o644, 0)] {
        let warnings = load(&page(routes(keys, mode)));
        assert_eq!(about(&warnings, "routes.json"), wanted, "{keys} {mode:o} {warnings:?}");
    }
}

#[cfg(feature = "admin")]
#[test]
fn keys_that_can_be_guessed_and_an_open_page_are_warned_of() {
    let folder = Folder::new();
    let warnings = |more: &str| {
        let text = format!("endpoints: [{{name: a, address: h, port: 1}}]\n{more}");
        load::load(&folder.file("a.yml", text, 0o600)).unwrap().warnings
    };
    let short = warnings(
        "auth: {keys: [{name: pi, key: canary-15-chars}, {name: ok, key: canary-16-charss}]}\nadmin: {token: canary}\n",
    );
    assert_eq!(short.len(), 2, "{short:?}");
    assert!(
        short[0].contains("\"pi\"") && short[1].contains("admin.token") && !short.join("").contains("canary"),
        "{short:?}"
    );
    let hash = format!("auth: {{keys: [{{name: h, key: 'sha256:{}'}}]}}\n", "0".repeat(64));
    assert_eq!(warnings(&hash), Vec::<String>::new());
    assert!(warnings("admin: {enabled: true, open: true, routesFile: none}\n")[0].contains("admin.open"));
    let old = load::load(&folder.file("r.json", "{\"Models\": {}}", 0o600)).unwrap();
    assert!(old.config.admin.open && old.warnings.iter().any(|text| text.contains("admin.open")), "{:?}", old.warnings);
}
