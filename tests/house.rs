//! The structure of the house, checked from its source text: which room may import which, where `unsafe` may
//! stand, how long a file may be, how it opens, and that every dependency has its reason written down. Each
//! rule is a function from text to complaints, and each is shown a bad text to see that it complains.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "this is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longer files are split: a reader should hold one in mind.
const MOST_LINES: usize = 600;

/// Each room with the rooms it must not know. `front` may use all of them; `main.rs` chooses a role.
const WALLS: &[(&str, &[&str])] = &[
    ("contract", &["controlplane", "sandbox", "ironctl", "front"]),
    ("controlplane", &["sandbox", "ironctl", "front"]),
    ("sandbox", &["controlplane", "ironctl", "front"]),
    ("ironctl", &["controlplane", "sandbox", "front", "os"]),
    ("os", &["controlplane", "sandbox", "ironctl", "front"]),
    ("front", &[]),
];

// ---- the rules on the house itself

#[test]
fn rooms_keep_to_their_walls() {
    none(sources("src").iter().flat_map(|(path, text)| imports_through_walls(path, text)));
}

#[test]
fn unsafe_code_stays_in_one_room() {
    let everywhere = [sources("src"), sources("tests"), sources("packaging")].concat();
    none(everywhere.iter().flat_map(|(path, text)| unsafe_outside_os(path, text)));
}

#[test]
fn files_are_short() {
    let everywhere = [sources("src"), sources("tests"), sources("packaging")].concat();
    none(everywhere.iter().flat_map(|(path, text)| too_long(path, text)));
}

#[test]
fn modules_open_with_their_purpose() {
    let everywhere = [sources("src"), sources("tests"), sources("packaging")].concat();
    none(everywhere.iter().flat_map(|(path, text)| opens_without_purpose(path, text)));
}

#[test]
fn the_map_names_every_room() {
    let found: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "main" && name != "lib" && name != "help")
        .collect();
    none(map_disagrees(&read("src/lib.rs"), &found));
}

#[test]
fn nothing_names_one_machine_or_registry() {
    none(all_text().iter().flat_map(|(path, text)| names_a_machine(path, text)));
}

#[test]
fn every_dependency_has_its_reason() {
    none(reasons_disagree(&read("Cargo.toml"), &read("packaging/deps.md")));
}

#[test]
fn every_package_comes_from_the_public_index() {
    none(foreign_sources(&read("Cargo.lock")));
}

/// Rows of `tests/behaviours.md`.
const BEHAVIOURS: usize = 139;

#[test]
fn the_table_of_behaviours_is_whole_and_names_what_is_there() {
    let table = read("tests/behaviours.md");
    none(unshown(&table, |file| fs::read_to_string(root().join(file)).ok()));
    let numbers: Vec<usize> =
        table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=BEHAVIOURS).collect::<Vec<_>>());
}

// ---- each rule complains about a bad text

#[test]
fn walls_are_seen_through_every_kind_of_path() {
    let bad = |path: &str, text: &str| !imports_through_walls(path, text).is_empty();
    assert!(bad("src/sandbox/turn.rs", "use crate::controlplane::store;"));
    assert!(bad("src/controlplane/serve.rs", "use crate::sandbox;"));
    assert!(bad("src/ironctl/chat.rs", "use crate::os::term;"));
    assert!(bad("src/contract/json/mod.rs", "fn f() { crate::front::demo::run() }"));
    assert!(bad("src/sandbox/turn.rs", "use crate::{contract::ids, controlplane::store::{a, b}};"));
    assert!(bad("src/sandbox/turn.rs", "use crate::\n    {\n  contract, controlplane };"));
    assert!(bad("src/sandbox/turn.rs", "use super::super::controlplane::x;"));
    assert!(bad("src/sandbox/tools/mod.rs", "use super::super::controlplane::x;"));
    assert!(bad("src/sandbox/mod.rs", "use super::controlplane::x;"));
    assert!(bad("src/sandbox/mod.rs", "use super::{contract, controlplane};"));
    assert!(bad("src/sandbox/mod.rs", "use ironclaw::controlplane::x;"));
    assert!(bad("src/sandbox/mod.rs", "use crate as house;"));
    assert!(bad("src/sandbox/mod.rs", "use crate::*;"));
    assert!(bad("src/sandbox/mod.rs", "#[path = \"../controlplane/x.rs\"] mod x;"));

    assert!(!bad("src/sandbox/turn.rs", "use crate::{contract::ids, os};"));
    assert!(!bad("src/sandbox/turn.rs", "use crate::sandbox::tools;"));
    assert!(!bad("src/sandbox/turn.rs", "// crate::controlplane does this"));
    assert!(!bad("src/sandbox/turn.rs", "let x = \"crate::controlplane\";"));
    assert!(!bad("src/sandbox/tools/mod.rs", "use super::controlplane_words;"));
    assert!(!bad("src/front/demo.rs", "use crate::{controlplane, sandbox, ironctl};"));
    assert!(!bad("src/main.rs", "use ironclaw::{controlplane, sandbox};"));
}

#[test]
fn unsafe_is_seen_outside_its_room() {
    let bad = |path: &str, text: &str| !unsafe_outside_os(path, text).is_empty();
    assert!(bad("src/sandbox/x.rs", "let y = unsafe { z() };"));
    assert!(bad("src/contract/x.rs", "unsafe impl Send for X {}"));
    assert!(bad("src/contract/x.rs", "let pid = libc::getpid();"));
    assert!(!bad("src/os/x.rs", "let y = unsafe { libc::z() };"));
    assert!(!bad(
        "src/sandbox/x.rs",
        "// unsafe would be wrong here\nlet s = \"unsafe\"; let unsafe_word = 1;"
    ));
}

#[test]
fn long_and_purposeless_files_are_seen() {
    assert!(too_long("src/x.rs", &"\n".repeat(MOST_LINES)).is_empty());
    assert!(!too_long("src/x.rs", &"\n".repeat(MOST_LINES + 1)).is_empty());
    assert!(opens_without_purpose("src/x.rs", "//! What it is for, and what it touches.\nuse x;").is_empty());
    for text in ["use x;", "// x\n//! What it is for.", "", "//!\n//! x", "//! x"] {
        assert!(!opens_without_purpose("src/x.rs", text).is_empty(), "{text:?}");
    }
}

#[test]
fn a_room_missing_from_the_map_is_seen() {
    let rooms = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert!(map_disagrees("//! x\npub mod os;\n", &rooms(&["os"])).is_empty());
    assert!(!map_disagrees("//! x\npub mod os;\n", &rooms(&["os", "cellar"])).is_empty());
    assert!(!map_disagrees("//! x\npub mod os;\npub mod cellar;\n", &rooms(&["os"])).is_empty());
    assert!(!map_disagrees("//! x\npub mod cellar;\n", &rooms(&["cellar"])).is_empty());
}

#[test]
fn machine_and_registry_names_are_seen() {
    for text in [
        format!("cd /{}/x", "work"),
        format!("PATH=/{}/.cargo/bin", "root"),
        format!("pip install --{}-url https://x", "index"),
        format!("https://{}.org/simple", "pypi"),
        format!("{}-with = \"x\"", "replace"),
    ] {
        assert!(!names_a_machine("README.md", &text).is_empty(), "{text}");
    }
    assert!(names_a_machine("README.md", "/workspace /work-1 /var/lib/ironclaw /run/ironclaw").is_empty());
}

#[test]
fn a_dependency_without_a_reason_is_seen() {
    let cargo = "[package]\nname = \"x\"\n[dependencies]\nalpha = \"1\"\n[target.'cfg(unix)'.dev-dependencies]\nbeta = { version = \"1\" }\n[lints.rust]\ngamma = \"deny\"\n";
    let both = "| `alpha` | does a |\n| `beta` | does b |\n";
    assert!(reasons_disagree(cargo, both).is_empty());
    assert!(!reasons_disagree(cargo, "| `alpha` | does a |\n").is_empty());
    assert!(!reasons_disagree(cargo, "| `alpha` |  |\n| `beta` | does b |\n").is_empty());
    assert!(!reasons_disagree(cargo, &format!("{both}| `gone` | did c |\n")).is_empty());
    assert!(!reasons_disagree("[dependencies.alpha]\nversion = \"1\"\n", "").is_empty());
}

#[test]
fn a_behaviour_that_nothing_shows_is_seen() {
    let files = |file: &str| (file == "src/a.rs" || file == "tests/b.rs").then(|| "fn shows() {}".to_owned());
    for good in
        ["| 1 | x | `a.rs::shows` |", "| 1 | x | `tests/b.rs::shows` |", "| 1 | x | open: why |", "text"]
    {
        assert!(unshown(good, files).is_empty(), "{good}");
    }
    for bad in [
        "| 1 | x | `a.rs::hides` |",
        "| 1 | x | `c.rs::shows` |",
        "| 1 | x | |",
        "| 1 | x | open: |",
        "| 1 | x | yes |",
    ] {
        assert!(!unshown(bad, files).is_empty(), "{bad}");
    }
}

#[test]
fn a_foreign_package_source_is_seen() {
    let usual = "source = \"registry+https://index.example.org\"\n";
    assert!(foreign_sources(&usual.repeat(2)).is_empty());
    assert!(!foreign_sources("source = \"git+https://example.org/x\"\n").is_empty());
    assert!(
        !foreign_sources(&format!("{usual}source = \"registry+https://mirror.example.org\"\n")).is_empty()
    );
}

// ---- the rules

fn imports_through_walls(path: &str, text: &str) -> Vec<String> {
    let module = module_path(path);
    let Some(room) = module.first() else { return Vec::new() };
    let Some((_, forbidden)) = WALLS.iter().find(|(name, _)| name == room) else { return Vec::new() };
    let code = code_only(text);
    let mut complaints = Vec::new();
    for name in rooms_named(&code, &module) {
        if forbidden.contains(&name.as_str()) {
            complaints.push(format!("{path}: `{room}` must not import `{name}`"));
        } else if name == "*" {
            complaints.push(format!("{path}: imports the whole house at once"));
        }
    }
    if code.contains("#[path") {
        complaints.push(format!("{path}: a #[path] attribute goes round the walls"));
    }
    complaints
}

/// The first name below the crate's root of every path that goes there.
fn rooms_named(code: &str, module: &[String]) -> Vec<String> {
    let words = words(code);
    let mut named = Vec::new();
    let mut index = 0;
    // A module inside the file, such as its tests, is one step further from the crate.
    let (mut depth, mut inner) = (0, Vec::new());
    while index < words.len() {
        let start = index;
        let mut rest = match words[start].as_str() {
            "crate" | "ironclaw" => 0,
            "super" => (module.len() + inner.len()).saturating_sub(1),
            "{" => {
                depth += 1;
                if start >= 2 && words[start - 2] == "mod" {
                    inner.push(depth);
                }
                index += 1;
                continue;
            }
            "}" => {
                if inner.last() == Some(&depth) {
                    inner.pop();
                }
                depth -= 1;
                index += 1;
                continue;
            }
            _ => {
                index += 1;
                continue;
            }
        };
        index += 1;
        while rest > 0 && word(&words, index) == "::" && word(&words, index + 1) == "super" {
            rest -= 1;
            index += 2;
        }
        if rest > 0 {
            continue;
        }
        if word(&words, index) == "::" {
            named.extend(first_names(&words[index + 1..]));
        } else if word(&words, index) == "as" {
            named.push("*".to_owned());
        }
    }
    named
}

/// The next name, or those of a braced group, without what is nested below them.
fn first_names(words: &[String]) -> Vec<String> {
    if word(words, 0) != "{" {
        return vec![word(words, 0).to_owned()];
    }
    let mut names = Vec::new();
    let mut depth = 0;
    for (index, current) in words.iter().enumerate() {
        match current.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(word(words, index - 1), "{" | ",") => names.push(current.clone()),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn word(words: &[String], index: usize) -> &str {
    words.get(index).map_or("", String::as_str)
}

/// The module of a source file: `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`; `main.rs` and `lib.rs` none.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or_default().trim_end_matches(".rs");
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    match inner {
        "" | "main" | "lib" => Vec::new(),
        _ => inner.split('/').map(str::to_owned).collect(),
    }
}

fn unsafe_outside_os(path: &str, text: &str) -> Vec<String> {
    if path.starts_with("src/os/") {
        return Vec::new();
    }
    let code = words(&code_only(text));
    let found = |name: &str| code.iter().any(|current| current == name);
    let called = code.windows(2).any(|pair| pair[0] == "libc" && pair[1] == "::");
    let mut complaints = Vec::new();
    if found("unsafe") {
        complaints.push(format!("{path}: `unsafe` outside src/os/"));
    }
    if called {
        complaints.push(format!("{path}: `libc` outside src/os/"));
    }
    complaints
}

fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= MOST_LINES {
        Vec::new()
    } else {
        vec![format!("{path}: {lines} lines, {MOST_LINES} at most")]
    }
}

fn opens_without_purpose(path: &str, text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix("//! ") {
        Some(purpose) if purpose.split_whitespace().count() >= 3 => Vec::new(),
        _ => vec![format!("{path}: does not open with a //! paragraph saying what it is for")],
    }
}

fn map_disagrees(lib: &str, found: &BTreeSet<String>) -> Vec<String> {
    let mapped: BTreeSet<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    let known: BTreeSet<String> = WALLS.iter().map(|(room, _)| (*room).to_owned()).collect();
    let missing = found.difference(&mapped).map(|name| format!("src/{name}: not in lib.rs"));
    let empty = mapped.difference(found).map(|name| format!("lib.rs: there is no room `{name}`"));
    let wall_less =
        mapped.difference(&known).map(|name| format!("the room `{name}` has no walls in this test"));
    missing.chain(empty).chain(wall_less).collect()
}

fn names_a_machine(path: &str, text: &str) -> Vec<String> {
    // Written in halves, so that this file does not name what it forbids.
    let forbidden = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/User", "s/"],
        [".pye", "nv"],
        ["index-", "url"],
        ["INDEX_", "URL"],
        ["pypi", ".org"],
        ["registry.npm", "js"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["proxy.gol", "ang"],
        ["replace", "-with"],
        ["artifact", "ory"],
    ];
    let names = forbidden.iter().map(|halves| halves.concat());
    // `/proc/1/` and the like before it make it another path.
    let named = |name: &str| {
        text.match_indices(name).any(|(at, _)| {
            !name.starts_with('/') || !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric())
        })
    };
    names.filter(|name| named(name)).map(|name| format!("{path}: names {name}")).collect()
}

fn reasons_disagree(cargo: &str, deps: &str) -> Vec<String> {
    let mut needed = BTreeSet::new();
    let mut inside = false;
    for line in cargo.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end().trim_end_matches(']');
            inside = section.ends_with("dependencies");
            if let Some((table, name)) = section.rsplit_once('.')
                && table.ends_with("dependencies")
            {
                needed.insert(name.to_owned());
            }
        } else if inside
            && let Some((name, _)) = line.split_once('=')
            && !name.trim().starts_with('#')
        {
            needed.insert(name.trim().to_owned());
        }
    }
    let mut given = BTreeSet::new();
    for line in deps.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(name), Some(reason)) = (cells.next(), cells.next()) else { continue };
        if let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'))
            && !reason.is_empty()
        {
            given.insert(name.to_owned());
        }
    }
    let without = needed.difference(&given).map(|name| format!("{name}: no reason in packaging/deps.md"));
    let stale =
        given.difference(&needed).map(|name| format!("{name}: in packaging/deps.md, not in Cargo.toml"));
    without.chain(stale).collect()
}

fn foreign_sources(lock: &str) -> Vec<String> {
    // One registry, whichever it is: a second one, or a repository, would be a source that nobody chose.
    let mut sources = lock.lines().filter_map(|line| line.strip_prefix("source = ")).peekable();
    let usual = sources.peek().copied().filter(|source| source.starts_with("\"registry+"));
    let foreign = sources.filter(|source| Some(*source) != usual);
    foreign.map(|source| format!("Cargo.lock: {source}")).collect()
}

// ---- reading text

/// Rows of a table that name no test which is there, and say neither what was changed nor what is open.
fn unshown(table: &str, text_of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| |") && !line.starts_with("| what"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let names = row.split('`').skip(1).step_by(2).filter_map(|name| name.split_once(".rs::"));
        for (file, test) in names.clone() {
            let file =
                if file.starts_with("tests/") { format!("{file}.rs") } else { format!("src/{file}.rs") };
            if !text_of(&file).is_some_and(|text| text.contains(&format!("fn {test}("))) {
                wrong.push(format!("{file} has no test {test}"));
            }
        }
        let says = |word: &str| {
            cells.last().and_then(|last| last.split(word).nth(1)).is_some_and(|why| !why.trim().is_empty())
        };
        if cells.len() < 3 || (names.count() == 0 && !says("changed:") && !says("open:")) {
            wrong.push(format!("nothing shows: {row}"));
        }
    }
    wrong
}

/// The text without comments and the contents of strings, so that only code is judged.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            out.push_str("\"\"");
            string(rest)
        } else if let Some(length) = raw_string(rest)
            && !out.ends_with(|before: char| before.is_alphanumeric() || before == '_')
        {
            out.push_str("\"\"");
            length
        } else if let Some(length) = character(rest) {
            length
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let body =
        text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let content = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = content.find(&close).map_or(content.len(), |at| at + close.len());
    Some(text.len() - content.len() + end)
}

/// A character literal; a lifetime is not one.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    if body.starts_with('\\') {
        return body[2..].find('\'').map(|at| at + 4);
    }
    let first = body.chars().next()?;
    body[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

/// Names, `::`, and every other character alone.
fn words(code: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut joined = false;
    for current in code.chars() {
        let part = current.is_alphanumeric() || current == '_';
        match words.last_mut() {
            Some(last) if part && joined => last.push(current),
            Some(last) if current == ':' && last == ":" => last.push(':'),
            _ if current.is_whitespace() => {}
            _ => words.push(current.to_string()),
        }
        joined = part;
    }
    words
}

// ---- reading the house

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below a directory, by its path from the root.
fn sources(below: &str) -> Vec<(String, String)> {
    let mut found = walk(&root().join(below));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(below != "src" || found.len() > 20, "the source files were not found");
    found.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

/// Every text file of the project; what is not UTF-8 is no text.
fn all_text() -> Vec<(String, String)> {
    let found = walk(&root());
    found.iter().filter_map(|path| Some((relative(path), fs::read_to_string(path).ok()?))).collect()
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == ".git" || name.starts_with("target") {
            continue;
        }
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

fn none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
