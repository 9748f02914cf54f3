//! `--check` and `--print-config` as a user runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of one test, gone at its end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("command-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.0.join(name), text).unwrap();
        self
    }

    /// Runs the program in this folder with these variables and no others of its own.
    pub fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmproxy"));
        for name in ["PORT", "API_KEY", "OPENAI_API_BASE_URL", "OPENAI_API_KEY", "LLMPROXY_CONFIG", "LLMPROXY_HOST"] {
            command.env_remove(name);
        }
        let run = command.args(args).envs(variables.iter().copied()).current_dir(&self.0).output();
        let Output { status, stdout, stderr } = run.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_endpoint_that_is_the_proxy_itself_is_refused_also_when_an_option_makes_it_so() {
    // U16
    let folder = Folder::new();
    folder.file(
        "c.yml",
        "endpoints: [{name: a, address: localhost, port: 8080}, {name: b, address: 127.0.0.1, port: 3}]",
    );
    let (code, _, said) = folder.run(&["-t", "-c", "c.yml"], &[]);
    assert_eq!(code, Some(78));
    assert!(said.contains("c.yml: endpoints[0]: localhost:8080 is this proxy's own address (`server`)"), "{said}");
    assert_eq!(folder.run(&["-t", "-c", "c.yml", "--port", "4"], &[]).0, Some(0));
    let (code, _, said) = folder.run(&["-t", "-c", "c.yml"], &[("PORT", "3")]);
    assert!(code == Some(78) && said.contains("endpoints[1]: 127.0.0.1:3"), "{said}");
    let (code, _, said) = folder.run(&["-c", "c.yml"], &[]);
    assert!(code == Some(78) && said.contains("own address"), "it does not start either: {said}");
    let more = "server: {port: 0}\nlisteners: [{name: lan, host: 0.0.0.0, port: 3}]\nendpoints: [{name: b, address: \"::1\", port: 3}, {name: c, url: \"http://127.0.0.1:3/v1\"}]";
    let (code, _, said) = folder.file("d.yml", more).run(&["-t", "-c", "d.yml"], &[]);
    assert!(code == Some(78) && said.contains("endpoints[1]: 127.0.0.1:3") && said.contains("`lan`"), "{said}");
}

#[test]
fn the_time_outs_in_force_are_shown_and_a_bare_number_that_meant_seconds_is_a_warning() {
    let folder = Folder::new();
    let text = "endpoints: [{name: a, address: h, port: 1, timeouts: {connect: 5}}]\ntimeouts: {idle: 30, total: 200}\ncache: {ttlMs: 5}";
    let (code, shown, said) = folder.file("c.yml", text).run(&["-t", "-c", "c.yml"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.contains("time-outs   connect 3s, first byte 10m, idle 30ms, total 200ms"), "{shown}");
    assert!(shown.contains("connect 5ms, first byte 10m, idle 30ms, total 200ms at a"), "{shown}");
    let warnings: Vec<_> = said.lines().collect();
    assert_eq!(
        warnings,
        [
            "warning: timeouts.idle: 30 means 30 milliseconds; write 30s for seconds",
            "warning: endpoints[0].timeouts.connect: 5 means 5 milliseconds; write 5s for seconds",
        ]
    );
}

#[cfg(all(feature = "legacy", feature = "jobs"))]
#[test]
fn a_dotenv_file_that_cannot_be_read_stops_the_start_instead_of_leaving_its_key_out() {
    let folder = Folder::new();
    folder.file(".env", b"OPENAI_API_BASE_URL=http://h:1/v1\nAPI_KEY=k\xff\n");
    let (code, _, said) = folder.run(&["-t"], &[]);
    assert!(code == Some(78) && said.contains(".env:2:10: is not UTF-8"), "{code:?} {said}");
    folder.file(".env", "OPENAI_API_BASE_URL=http://h:1/v1\nAPI_KEY=k\nPORT=3001\n");
    let (code, shown, said) = folder.run(&["--print-config"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.contains("port: 3001") && shown.contains("name: api\n    key: '***'\n"), "{shown}");
    let (_, shown, _) = folder.run(&["--print-config"], &[("PORT", "3002")]);
    assert!(shown.contains("port: 3002"), "{shown}");
}

#[test]
fn a_key_file_is_one_line_without_what_editors_and_docker_put_around_it() {
    // U24
    let folder = Folder::new();
    let file = "endpoints: [{name: a, address: h, port: 1}]\nadmin: {tokenFile: key}\nauth: {keys: [{name: k, key: the-same-key-as-in-the-file}]}";
    folder.file("c.yml", file);
    for text in [
        "the-key",
        " the-key",
        "the-key\n",
        "\n\n  the-key \n",
        "\u{feff}the-key\r\n",
        "\"the-key\"\n",
        "'the-key'",
        "the-key\nanother line\u{7}",
        "\t\"the-key\" \r\nx",
    ] {
        let path = folder.file("key", text).0.join("c.yml");
        let loaded = llmproxy::config::load::load(&path).unwrap();
        assert_eq!(loaded.config.admin.token.unwrap().reveal(), "the-key", "{text:?}");
    }
    for text in ["", "\n", "\u{feff}\n", "\"\""] {
        let (code, _, said) = folder.file("key", text).run(&["-t", "-c", "c.yml"], &[]);
        assert!(code == Some(78) && said.contains("the file \"key\" is empty"), "{text:?} {said}");
    }
}
