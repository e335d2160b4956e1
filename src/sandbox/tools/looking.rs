//! The tools that look for files. They touch directories through [`super::jail`], and end in a bounded time whatever is
//! there.

use std::time::{Duration, Instant};

use super::files::root;
use super::jail::{Entry, Jail, JailError, Kind};
use super::{Bench, Repeat, Task, Tool, ToolError, text, texts};
use crate::contract::json::Value;

/// Most lines of a result.
const LINES: usize = 500;
/// Most entries that one search looks at.
const ENTRIES: usize = 50_000;
/// Most bytes that one search reads.
const BYTES: u64 = 64 << 20;
/// Deepest directory that is searched.
const DEPTH: usize = 24;
/// The longest search.
const TIME: Duration = Duration::from_secs(10);
/// Most characters that are shown of a line.
const SHOWN: usize = 200;

/// Lists a directory.
pub(super) const LIST_DIR: Tool = Tool {
    name: "list_dir",
    description: "List what is in a directory of the workspace, or of a package or mount that is shown to you: one name \
        a line, directories with / at their end, files with their size.",
    group: "files",
    schema: || {
        texts(&[(
            "path",
            "The directory, relative to the workspace (`.` is all of it), or below /opt/packages or /mnt",
        )])
    },
    repeat: Repeat::ReadOnly,
    task: Task::Here(list_dir),
};

/// Searches files.
pub(super) const SEARCH_FILES: Tool = Tool {
    name: "search_files",
    description: "Search the text files below a directory for lines that contain a text, as it is, and names that do. \
        Says file, line and what stands there.",
    group: "files",
    schema: || {
        texts(&[
            (
                "path",
                "The directory, relative to the workspace (`.` is all of it), or below /opt/packages or /mnt",
            ),
            ("text", "What is looked for; upper and lower case are the same"),
        ])
    },
    repeat: Repeat::ReadOnly,
    task: Task::Here(search_files),
};

/// Does something with a directory of the workspace, or of the package or mount that the path begins with.
fn in_directory<T>(
    bench: &Bench,
    path: &str,
    act: impl Fn(&Jail, &str) -> Result<T, JailError>,
) -> Result<T, JailError> {
    match root(path) {
        None => act(&bench.files, path),
        Some(root) => act(&Jail::open(&root)?, path),
    }
}

fn shown_name(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_unicode().collect() } else { vec![c] }).collect()
}

fn line_of(entry: &Entry) -> String {
    let name = shown_name(&entry.name);
    match entry.kind {
        Kind::File(size) => format!("{name} ({size} bytes)"),
        Kind::Directory => format!("{name}/"),
        Kind::Other => format!("{name} (neither a file nor a directory)"),
    }
}

fn list_dir(bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    let listing = in_directory(bench, text(input, "path")?, Jail::list)?;
    if listing.entries.is_empty() {
        return Ok("nothing is in it".to_owned());
    }
    let mut lines: Vec<String> = listing.entries.iter().take(LINES).map(line_of).collect();
    let more = listing.entries.len() - lines.len();
    if more > 0 || listing.is_cut {
        let and = if listing.is_cut { "and more" } else { "more" };
        lines.push(format!("[{more} {and} are left out]"));
    }
    Ok(lines.join("\n"))
}

/// Why a search that found nothing may have missed it.
const PARTLY: &str = "not everything was searched; look in a smaller directory";

/// A search on its way.
struct Search<'a> {
    jail: &'a Jail,
    wanted: String,
    found: Vec<String>,
    entries: usize,
    bytes: u64,
    until: Instant,
    /// Why something may have been missed.
    missed: Option<&'static str>,
}

impl Search<'_> {
    fn is_over(&mut self) -> bool {
        let why = if self.found.len() >= LINES {
            "there is more; look for something longer"
        } else if self.entries >= ENTRIES || self.bytes >= BYTES || Instant::now() >= self.until {
            PARTLY
        } else {
            return false;
        };
        self.missed = Some(why);
        true
    }

    fn directory(&mut self, path: &str, depth: usize) -> Result<(), JailError> {
        let listing = self.jail.list(path)?;
        if listing.is_cut {
            self.missed = self.missed.or(Some(PARTLY));
        }
        for entry in listing.entries {
            if self.is_over() {
                return Ok(());
            }
            self.entries += 1;
            let below = if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
            if entry.name.to_lowercase().contains(&self.wanted) {
                self.found.push(shown_name(&below));
            }
            match entry.kind {
                Kind::Directory if depth == DEPTH => self.missed = self.missed.or(Some(PARTLY)),
                // What went meanwhile, or is not for everybody, is none of the search's.
                Kind::Directory => drop(self.directory(&below, depth + 1)),
                Kind::File(size) => self.file(&below, size),
                Kind::Other => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str, size: u64) {
        let read = self.jail.inside(path).and_then(|inside| self.jail.read(&inside));
        self.bytes += size.min(1 << 20);
        let Ok(content) = read else { return };
        let Ok(content) = String::from_utf8(content) else { return };
        for (number, line) in (1_u64..).zip(content.lines()) {
            if !line.to_lowercase().contains(&self.wanted) {
                continue;
            }
            if self.is_over() {
                return;
            }
            let line: String = shown_name(line.trim()).chars().take(SHOWN).collect();
            self.found.push(format!("{}:{number}: {line}", shown_name(path)));
        }
    }
}

fn search_files(bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    let wanted = text(input, "text")?.to_lowercase();
    if wanted.trim().is_empty() {
        return Err(ToolError("text is empty; list_dir shows what is there".into()));
    }
    let (found, missed) = in_directory(bench, text(input, "path")?, |jail, path| {
        let mut search = Search {
            jail,
            wanted: wanted.clone(),
            found: Vec::new(),
            entries: 0,
            bytes: 0,
            until: Instant::now() + TIME,
            missed: None,
        };
        let path = path.trim_end_matches('/');
        search.directory(if path == "." { "" } else { path }, 0)?;
        Ok((search.found, search.missed))
    })?;
    let mut lines = found;
    if lines.is_empty() {
        lines.push("it is nowhere there".to_owned());
    }
    lines.extend(missed.map(|why| format!("[{why}]")));
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::Destinations;
    use super::*;
    use crate::sandbox::scratch::Scratch;

    fn bench(scratch: &Scratch) -> Bench {
        Bench { files: Jail::open(scratch.path()).unwrap(), destinations: Destinations::default() }
    }

    fn run(tool: &Tool, bench: &Bench, fields: &[(&str, &str)]) -> Result<String, String> {
        let input = Value::object(fields.iter().map(|(name, text)| (*name, Value::from(*text))));
        let Task::Here(work) = tool.task else { panic!("it is done here") };
        work(bench, &input, "stamp").map_err(|error| error.0)
    }

    #[test]
    fn what_is_there_is_listed_and_found() {
        let scratch = Scratch::new();
        let bench = bench(&scratch);
        let list = |path| run(&LIST_DIR, &bench, &[("path", path)]);
        assert_eq!(list(".").unwrap(), "nothing is in it");
        std::fs::create_dir_all(scratch.path().join("notes/old")).unwrap();
        std::fs::write(scratch.path().join("notes/a.txt"), "Milk\nand bread\r\nÄpfel\n").unwrap();
        std::fs::write(scratch.path().join("notes/old/bread.txt"), "none").unwrap();
        std::fs::write(scratch.path().join("odd\n\u{1b}[2J"), [0xff, b'b', b'r', b'e', b'a', b'd']).unwrap();
        std::os::unix::fs::symlink("/etc", scratch.path().join("etc")).unwrap();
        let listed = list("").unwrap();
        assert_eq!(listed, "etc (neither a file nor a directory)\nnotes/\nodd\\u{a}\\u{1b}[2J (6 bytes)");
        assert!(list("etc").unwrap_err().contains("symbolic link"));
        assert!(list("notes/a.txt").unwrap_err().contains("not a directory"));
        let search = |path, text| run(&SEARCH_FILES, &bench, &[("path", path), ("text", text)]);
        assert_eq!(search(".", "BREAD").unwrap(), "notes/a.txt:2: and bread\nnotes/old/bread.txt");
        assert_eq!(search("notes/", "äpf").unwrap(), "notes/a.txt:3: Äpfel");
        assert_eq!(search("notes/old", "milk").unwrap(), "it is nowhere there");
        assert!(search(".", " ").is_err() && search("none", "x").is_err() && search("..", "x").is_err());
        assert!(search("etc", "root").unwrap_err().contains("symbolic link"));
    }

    #[test]
    fn a_search_has_an_end() {
        let scratch = Scratch::new();
        let bench = bench(&scratch);
        let mut deep = scratch.path().to_owned();
        for _ in 0..40 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x"), "needle").unwrap();
        for number in 0..600 {
            std::fs::write(scratch.path().join(format!("f{number}")), "needle\nneedle\n").unwrap();
        }
        let found = run(&SEARCH_FILES, &bench, &[("path", "."), ("text", "needle")]).unwrap();
        assert_eq!(found.lines().count(), LINES + 1);
        assert!(found.ends_with("[there is more; look for something longer]"), "{found}");
        let none = run(&SEARCH_FILES, &bench, &[("path", "d"), ("text", "needle")]).unwrap();
        assert!(none.contains("look in a smaller directory"), "{none}");
        let listed = run(&LIST_DIR, &bench, &[("path", "")]).unwrap();
        assert!(listed.ends_with("[101 more are left out]"), "{listed}");
    }
}
