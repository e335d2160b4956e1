//! Files that will be executed are written by a child, never by this process. Whatever is open for writing here
//! is for a moment also open in every process that another thread is just starting, between its fork and its
//! exec, and the kernel executes no file that anybody has open for writing ("text file busy").

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies an executable.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755", "--"]).args([from, to]).status().unwrap();
    assert!(status.success(), "{} could not be copied to {}: {status}", from.display(), to.display());
}

/// Writes a script.
pub fn script(text: &str, to: &Path) {
    let mut child = Command::new("install")
        .args(["-m", "755", "--", "/dev/stdin"])
        .arg(to)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{} could not be written: {status}", to.display());
}
