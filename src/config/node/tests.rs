//! What a text says, and where.

use super::*;

fn map(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        other => panic!("not a map: {other:?}"),
    }
}

#[test]
fn repeated_keys_stay_visible_in_the_order_of_the_file() {
    let tree = parse("b: 1\na: 2\nb: 3\n").unwrap();
    let keys: Vec<_> = map(&tree).iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["b", "a", "b"]);
}

#[test]
fn every_node_is_found_again_also_behind_umlauts_and_aliases() {
    let text = "# für die Küche\na: &x {k: ü, l: 2}\nlist:\n  - one\n  - *x\n";
    let tree = parse(text).unwrap();
    let entries = map(&tree);
    assert_eq!(locate(text, tree.at), Some((2, 1)));
    assert_eq!(locate(text, entries[0].at), Some((2, 1)));
    assert_eq!(locate(text, map(&entries[0].value)[1].value.at), Some((2, 17)));
    let Value::List(list) = &entries[1].value.value else { panic!("a list") };
    assert_eq!(locate(text, list[0].at), Some((4, 5)));
    // Behind an alias the place is where the text stands.
    assert_eq!(locate(text, map(&list[1])[1].value.at), Some((2, 17)));
    assert_eq!(locate(text, 1000), None);
}

#[test]
fn a_merge_key_fills_in_what_the_map_does_not_say() {
    let tree = parse("base: &b {host_name: a, port: 1}\nmine:\n  <<: *b\n  hostName: b\n").unwrap();
    let mine = map(&map(&tree)[1].value);
    let keys: Vec<_> = mine.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["hostName", "port"]);
}

#[test]
fn faults_name_their_place_and_a_tab_is_called_a_tab() {
    // D1
    let of = |text| parse(text).unwrap_err();
    assert_eq!(of("a: b\nc: d: e\n").place, Some((2, 5)));
    assert!(of("a:\n\tb: c\n").text.ends_with("a tab: YAML indents with spaces only"));
    assert!(of("a:\n  b: c\n\tc: d\n").text.contains("a tab:"));
    assert_eq!(
        of("a: b\nc: \u{1}\n"),
        Fault { place: Some((2, 4)), text: "control characters are not allowed".into() }
    );
    assert_eq!(of("a: b\n---\nc: d\n").place, Some((2, 1)));
    assert_eq!(of("  a: b\nc: d\n").place, Some((2, 1)));
    assert_eq!(of("a: !tag b\n").place, Some((1, 4)));
    assert_eq!(of("a: {[b]: c}\n").text, "a key is a plain word");
    assert_eq!(of("a: \"b\n").place, Some((2, 1)));
}

#[test]
fn bombs_end_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let uses = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb += &format!("a{i}: &a{i} [{uses}]\n");
    }
    let fault = parse(&bomb).unwrap_err();
    assert!(fault.text.contains("more than 50000 values") || fault.text.contains("repetition"), "{}", fault.text);
    // Measured without the bound on brackets: 381 s.
    assert_eq!(parse(&"{a: ".repeat(1 << 18)).unwrap_err().place, Some((1, 801)));
    assert!(parse(&"- ".repeat(1 << 19)).is_err());
}
