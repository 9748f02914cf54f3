//! The README is true: what it shows as configuration loads, what it names exists.

use llmproxy::cli;
use llmproxy::config::load;
use std::collections::BTreeSet;

const README: &str = include_str!("../README.md");
const CARGO: &str = include_str!("../Cargo.toml");

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// Every file that it names holds a secret of its own.
fn file(path: &std::path::Path) -> std::io::Result<String> {
    Ok(format!("a secret of its own for {}", path.display()))
}

#[test]
fn every_configuration_in_it_loads() {
    let shown = blocks("yaml");
    assert_eq!(shown.len(), 7);
    for (text, endpoints) in shown.into_iter().zip([1, 2, 1, 2, 2, 1, 1]) {
        let loaded = load::parse("README.md", text, &|_| None, &file).unwrap_or_else(|p| panic!("{p:?}"));
        let (config, warnings) = (loaded.config, loaded.warnings);
        assert_eq!((config.endpoints.len(), warnings.len()), (endpoints, 0), "{warnings:?}");
    }
}

#[test]
fn every_option_it_names_is_one() {
    let words = README.split(|c: char| c.is_whitespace() || "`|()".contains(c));
    let is_option = |word: &&str| word.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic));
    let options: BTreeSet<&str> = words.filter(is_option).collect();
    let cargos = ["--release", "--no-default-features", "--features"];
    let ours: Vec<_> = options.into_iter().filter(|option| !cargos.contains(option)).collect();
    assert!(ours.len() >= 4, "{ours:?}");
    for option in ours {
        assert!(cli::HELP.contains(option), "{option}");
    }
}

#[test]
fn its_table_of_crates_is_the_manifests() {
    let table = README.split("| crate | why |").nth(1).expect("a table").split("\n\n").next().expect("its rows");
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let names = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(','));
    let told: BTreeSet<&str> = names.filter_map(|name| name.split_whitespace().next()).collect();
    let manifest = CARGO.split("[dependencies]").nth(1).expect("a section").split("\n[").next().expect("its lines");
    let keys = manifest.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let used: BTreeSet<&str> = keys.map(|(name, _)| name).collect();
    assert_eq!(told, used);
}

#[test]
fn the_files_it_points_to_are_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    let words = README.split(|c: char| c.is_whitespace() || "`(),;:".contains(c));
    let paths: BTreeSet<&str> = words
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| ["scripts/", "src/", "config/"].iter().any(|folder| word.starts_with(folder)))
        .collect();
    assert!(paths.len() >= 6, "{paths:?}");
    for path in paths {
        assert!(std::path::Path::new(root).join(path).exists(), "{path}");
    }
}
