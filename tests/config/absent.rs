//! A build without its optional parts: who asks for one learns what is missing and how to get it.

use super::command::Folder;
use super::{ONE, good, wrong};

const JOBS: &str = "this build has no jobs; build with --features jobs";
const ADMIN: &str = "this build has no admin page; build with --features admin";
const LEGACY: &str = "this build reads no formats of older proxies; build with --features legacy";

#[test]
fn a_section_that_turns_on_an_absent_part_is_refused_where_it_stands() {
    let both = wrong(&format!("{ONE}jobs:\n  enabled: true\nadmin: {{enabled: true, port: 9}}\n"));
    assert_eq!(both, [format!("f.yml:3:12: jobs.enabled: {JOBS}"), format!("f.yml:4:18: admin.enabled: {ADMIN}")]);
    let off = good(&format!("{ONE}jobs: {{enabled: false, always: true}}\nadmin: {{enabled: false}}\n"));
    assert!(!off.jobs.enabled && !off.admin.enabled);
}

#[test]
fn a_file_of_an_older_format_is_refused_once() {
    let files = [
        ("001", include_str!("../../config/old/001-config.yaml"), "backends"),
        ("002", include_str!("../../config/old/002-config.yaml"), "http_server"),
        ("003", include_str!("../../config/old/003-dynamic_routing.json"), "Models"),
    ];
    for (format, text, key) in files {
        let said = wrong(text);
        assert!(matches!(&said[..], [one] if one.ends_with(&format!(": {key}: {LEGACY}"))), "{format} {said:?}");
    }
}

#[test]
fn the_program_ends_as_for_any_wrong_configuration() {
    let folder = Folder::new();
    let (code, _, said) = folder.run(&["--demo", "--port", "0"], &[]);
    assert_eq!((code, &*said), (Some(78), "llmproxy: this build has no demo; build with --features demo\n"));
    folder.file("c.yml", format!("{ONE}admin: {{enabled: true}}\n"));
    for args in [["-t", "-c", "c.yml"], ["--port", "0", "-cc.yml"], ["--print-config", "-c", "c.yml"]] {
        let (code, _, said) = folder.run(&args, &[]);
        assert!(code == Some(78) && said.contains(ADMIN), "{args:?} {code:?} {said}");
    }
    let environment = format!("llmproxy: environment: OPENAI_API_BASE_URL: {LEGACY}\n");
    let (code, _, said) = folder.run(&["--port", "0"], &[("OPENAI_API_BASE_URL", "http://127.0.0.1:1/v1")]);
    assert_eq!((code, &said), (Some(78), &environment));
    folder.file(".env", "OPENAI_API_BASE_URL=http://127.0.0.1:1/v1\n");
    let (code, _, said) = folder.run(&["-t"], &[]);
    assert_eq!((code, said), (Some(78), environment));
}
