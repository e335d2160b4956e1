//! What is published of the interface, held against what is there: `schema/openapi.yaml` and the page of
//! `ironclaw help api` against the router and the problems.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;

use super::router::{Route, route};
use crate::contract::catalogue::TOOLS;
use crate::controlplane::gateway::kind::Kind;

const DOCUMENT: &str = include_str!("../../../schema/openapi.yaml");
const PAGE: &str = include_str!("../../help/api.md");

/// What one operation of the document says.
#[derive(Debug, Default)]
struct Operation {
    takes_body: bool,
    statuses: BTreeSet<u16>,
}

/// Every operation of the document, by method and template.
fn documented() -> BTreeMap<(String, String), Operation> {
    let paths =
        DOCUMENT.lines().skip_while(|line| *line != "paths:").take_while(|line| *line != "components:");
    let (mut path, mut method) = (String::new(), String::new());
    let mut found: BTreeMap<(String, String), Operation> = BTreeMap::new();
    for line in paths {
        let Some((word, _)) = line.trim_start().split_once(':') else { continue };
        match (line.len() - line.trim_start().len(), word) {
            (2, template) => (path, method) = (template.to_owned(), String::new()),
            (4, "parameters") => method.clear(),
            (4, word) => {
                method = word.to_uppercase();
                found.insert((method.clone(), path.clone()), Operation::default());
            }
            (depth @ (6 | 8), word) => {
                let Some(operation) = found.get_mut(&(method.clone(), path.clone())) else { continue };
                match word.trim_matches('\'').parse() {
                    Ok(status) if depth == 8 => drop(operation.statuses.insert(status)),
                    _ => operation.takes_body |= (depth, word) == (6, "requestBody"),
                }
            }
            _ => {}
        }
    }
    found
}

/// Method and template of what is implemented: the patterns of [`route`] as they are written, asked with each method.
fn implemented() -> BTreeMap<(String, String), Route> {
    let source = include_str!("router.rs");
    let arms = source.lines().skip_while(|line| !line.contains("match segments.as_slice()"));
    let arms = arms.take_while(|line| !line.contains("_ => return"));
    let patterns: Vec<&str> = arms
        .filter_map(|line| line.trim().strip_prefix('[')?.split_once("] =>").map(|(pattern, _)| pattern))
        .collect();
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let words = pattern.split(", ").map(|word| match word.strip_prefix('"') {
            Some(word) => word.trim_end_matches('"').to_owned(),
            None => format!("{{{word}}}"),
        });
        let template = format!("/{}", words.collect::<Vec<_>>().join("/"));
        let path = template.replace(['{', '}'], "");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if let Ok(route) = route(&method, &path) {
                found.insert((method.to_string(), template.clone()), route);
            }
        }
    }
    found
}

#[test]
fn every_route_is_documented_and_every_documented_one_is_there() {
    let (documented, implemented) = (documented(), implemented());
    assert!(implemented.len() > 30, "{implemented:?}");
    assert_eq!(documented.keys().collect::<Vec<_>>(), implemented.keys().collect::<Vec<_>>());
}

#[test]
fn every_route_is_on_the_page() {
    let first_cells = PAGE.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let named = first_cells.flat_map(|cell| cell.split('`').filter_map(|word| word.split_once(" /")));
    let on_page: BTreeSet<(String, String)> = named
        .map(|(method, path)| {
            let path = path.split('?').next().unwrap_or_default();
            (method.to_owned(), format!("/{path}"))
        })
        .collect();
    assert_eq!(on_page, implemented().into_keys().collect());
}

/// What the door, the limits and what is behind every route can answer is on every route.
#[test]
fn the_answers_of_the_door_are_on_every_route() {
    let (documented, implemented) = (documented(), implemented());
    for (name, route) in implemented {
        let Some(operation) = documented.get(&name) else { panic!("{name:?} is not documented") };
        // A place that is another's, a site, a name of this one; and what nobody foresaw.
        let mut can = vec![400, 403, 421, 500];
        if matches!(route, Route::Guarded(_)) {
            can.extend([401, 429, 503]);
        }
        // All that changes something reads a body, an empty one too.
        let takes_body = name.0 != "GET";
        assert_eq!(operation.takes_body, takes_body, "{name:?}");
        if takes_body {
            can.extend([408, 413, 415]);
        }
        if name.1.contains('{') {
            can.push(404);
        }
        for status in can {
            assert!(operation.statuses.contains(&status), "{name:?} can answer {status}");
        }
    }
}

#[test]
fn every_code_of_a_problem_is_documented() {
    let source = include_str!("problem.rs");
    let codes: Vec<&str> = source
        .split("StatusCode::")
        .flat_map(|part| part.split_once(", \""))
        .filter_map(|(before, after)| (before.len() < 40).then(|| after.split('"').next()).flatten())
        .filter(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .collect();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        assert!(DOCUMENT.contains(&format!("- {code}\n")), "{code} is not in schema/openapi.yaml");
    }
}

#[test]
fn every_kind_of_change_and_every_tool_is_documented() {
    let asked: BTreeSet<&str> = DOCUMENT
        .lines()
        .filter_map(|line| line.trim().strip_prefix("kind: { const: ")?.strip_suffix(" }"))
        .collect();
    assert_eq!(asked, Kind::ALL.iter().map(|kind| kind.as_str()).collect());
    let tools: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    assert!(DOCUMENT.contains(&format!("items: {{ enum: [{}] }}", tools.join(", "))), "{tools:?}");
    assert!(DOCUMENT.contains(&format!("maxItems: {}\n          items: {{ enum: [read_file", tools.len())));
}
