//! The files of `src/` import each other in one direction: there is no circle. Read from their text, tests left out.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Imports = BTreeMap<String, BTreeSet<String>>;

/// Every file of a folder, by its module path: `src/http/mod.rs` is `http`.
fn files(folder: &Path, module: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
        if path.is_dir() {
            files(&path, &inner, found);
        } else if path.extension().is_some_and(|end| end == "rs") && name != "tests" {
            let module = if name == "mod" { module.to_owned() } else { inner };
            found.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The text without comments, and without a test module at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `start`, braces of one level taken apart.
fn paths(code: &str, start: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        let is_start = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let rest = &code[at + start.len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(':');
        match rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((items, _)) if is_start => {
                found.extend(items.split(',').map(|item| format!("{path}::{}", item.trim())));
            }
            _ if is_start => found.push(path.to_owned()),
            _ => {}
        }
    }
    found
}

fn imports() -> Imports {
    let mut texts = BTreeMap::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut texts);
    let known = |path: &str| {
        let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
        (1..=parts.len()).rev().map(|n| parts[..n].join("::")).find(|module| texts.contains_key(module))
    };
    let of = |module: &String| {
        let code = code(&texts[module]);
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let beside = paths(&code, "super::").into_iter().map(|path| format!("{parent}::{path}"));
        let all = paths(&code, "crate::").into_iter().chain(beside);
        all.filter_map(|path| known(&path)).filter(|other| other != module).collect()
    };
    texts
        .keys()
        .filter(|module| *module != "lib" && *module != "main")
        .map(|module| (module.clone(), of(module)))
        .collect()
}

/// A way from a module back to itself.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn walk(at: &str, imports: &Imports, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        if let Some(start) = way.iter().position(|other| other == at) {
            way.drain(..start);
            return true;
        }
        if !done.insert(at.to_owned()) {
            return false;
        }
        way.push(at.to_owned());
        if imports.get(at).into_iter().flatten().any(|next| walk(next, imports, way, done)) {
            return true;
        }
        way.pop();
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    imports.keys().any(|module| walk(module, imports, &mut way, &mut done)).then_some(way)
}

#[test]
fn no_file_imports_itself_in_a_circle() {
    let imports = imports();
    assert!(imports["proxy::serve"].contains("proxy::forward"), "imports are found: {:?}", imports["proxy::serve"]);
    assert_eq!(circle(&imports), None);
}

#[test]
fn a_circle_would_be_found() {
    let edge = |from: &str, to: &str| (from.to_owned(), BTreeSet::from([to.to_owned()]));
    assert_eq!(
        circle(&Imports::from([edge("a", "b"), edge("b", "c"), edge("c", "b")])),
        Some(vec!["b".into(), "c".into()])
    );
    assert_eq!(circle(&Imports::from([edge("a", "b"), edge("c", "b")])), None);
}
