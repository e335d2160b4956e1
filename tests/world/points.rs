//! The named crash points of the executable, as its source names them.

use std::collections::BTreeSet;
use std::path::Path;

use super::leftovers::files_below;

/// The names in the source: a point that is added is walked without anybody thinking of it.
pub fn names() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut names = BTreeSet::new();
    for path in files_below(&source) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for part in text.split("fault::point(\"").skip(1) {
            names.insert(part.split('"').next().unwrap().to_owned());
        }
    }
    names
}
