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

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The files that `lib.rs` lists as the path of a prompt and of a key, with the lines that it gives them.
fn audited() -> BTreeMap<String, usize> {
    let text = read("src/lib.rs");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | "));
    rows.map(|(file, rest)| (file.to_owned(), rest.split(' ').next().unwrap().parse().unwrap())).collect()
}

#[test]
fn the_path_of_a_prompt_and_of_a_key_is_as_long_as_it_says() {
    let told = audited();
    let counted: BTreeMap<String, usize> = told
        .keys()
        .map(|file| {
            let text = read(&format!("src/{file}"));
            (file.clone(), text.split("#[cfg(test)]\nmod tests").next().unwrap().trim_end().lines().count())
        })
        .collect();
    assert_eq!(told, counted);
    let sum = format!("{} lines in {} files", told.values().sum::<usize>(), told.len());
    assert!(read("README.md").contains(&format!("The path of a prompt and of a key, {sum},")), "{sum}");
    let sum = format!("These {} files, {} lines", told.len(), told.values().sum::<usize>());
    assert!(read("src/lib.rs").contains(&sum), "{sum}");
}

#[test]
fn no_other_file_sees_a_body_an_answer_or_a_key() {
    let listed = audited();
    // Named in lib.rs below the list.
    let optional = |file: &str| {
        ["jobs", "admin", "config"].iter().any(|module| file.starts_with(module))
            || ["proxy/job_store.rs", "proxy/background.rs"].contains(&file)
    };
    let mut texts = BTreeMap::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut texts);
    let mut seen = 0;
    for (module, text) in &texts {
        let code = code(text);
        let items: Vec<String> = ["crate::", "super::"].iter().flat_map(|start| paths(&code, start)).collect();
        let has = |item: &str| items.iter().any(|path| path == item || path.ends_with(&format!("::{item}")));
        let sees = has("request::Request")
            || has("request::Body")
            || has("UpstreamResponse")
            || has("BufferedResponse")
            || has("Collected")
            || has("JobRequest")
            || code.contains(".reveal()")
            || code.contains("auth::presented_keys");
        let file = format!("{}.rs", module.replace("::", "/"));
        seen += usize::from(sees);
        assert!(!sees || listed.contains_key(&file) || optional(&file), "{file} is not on the list in lib.rs");
    }
    assert!(seen > 20, "the rule finds them");
}
