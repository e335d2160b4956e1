//! The files of the audit chain in the state directory: `audit.jsonl` grows; when it is large enough it is renamed
//! to `audit-FIRST.jsonl`, where FIRST is the number of its first record, and a new one goes on. One that must not
//! be continued is set aside as `audit-disagrees-TIME.jsonl`. Touches these files and nothing else.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::contract::chain::{LINE_BYTES, Lines, Piece};
use crate::contract::fault;
use crate::contract::time::Millis;
use crate::controlplane::state::sync_directory;

/// The file that grows.
pub(super) const CURRENT: &str = "audit.jsonl";

/// A file that grows no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// The number of its first record, as its name says.
    pub(super) first: u64,
    /// Its name.
    pub(super) name: String,
}

/// What stands in the place of the file that grows.
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A file of ours, opened for reading and appending.
    Ours(File),
    /// Something that is not ours to write to; the text says what.
    Odd(String),
}

/// The directory with the files.
#[derive(Clone, Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The files that grow no more, in the order of their records.
    pub(super) fn closed(&self) -> io::Result<Vec<Closed>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let digits = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".jsonl"));
            let digits = digits.filter(|text| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_digit()));
            if let Some(first) = digits.and_then(|text| text.parse().ok()) {
                found.push(Closed { first, name: name.to_owned() });
            }
        }
        found.sort_by_key(|closed| closed.first);
        Ok(found)
    }

    /// Looks at the file that grows.
    pub(super) fn current(&self) -> io::Result<Found> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::open(self.join(CURRENT), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(Errno::LOOP) => return Ok(Found::Odd("it is a symbolic link".to_owned())),
            Err(Errno::ISDIR | Errno::NXIO) => return Ok(Found::Odd("it is no regular file".to_owned())),
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(Found::Odd("it is no regular file".to_owned()));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Ok(Found::Odd(format!("it belongs to user id {}", meta.uid())));
        }
        if meta.mode() & 0o777 != 0o600 {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        Ok(Found::Ours(file))
    }

    /// Opens one of the files for reading only; `None` when there is none of that name.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match rustix::fs::open(self.join(name), flags, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                if file.metadata()?.is_file() {
                    Ok(Some(file))
                } else {
                    Err(io::Error::other(format!("{name} is no regular file")))
                }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The last line of one of the files; `None` when it does not end with a whole line that a chain may have.
    pub(super) fn last_line(&self, name: &str) -> io::Result<Option<String>> {
        let Some(mut file) = self.read(name)? else { return Ok(None) };
        let length = file.metadata()?.len();
        // The newline before the line, the line, and its own newline.
        let most = LINE_BYTES as u64 + 2;
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut tail = Vec::new();
        file.take(most).read_to_end(&mut tail)?;
        if tail.pop() != Some(b'\n') {
            return Ok(None);
        }
        let line = tail.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(String::from_utf8(line.to_vec()).ok())
    }

    /// A name for what is set aside now, which nothing has yet.
    pub(super) fn name_aside(&self) -> String {
        let at: String = Millis::now().to_string().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let mut name = format!("audit-disagrees-{at}.jsonl");
        let mut count = 1;
        while fs::symlink_metadata(self.join(&name)).is_ok() {
            count += 1;
            name = format!("audit-disagrees-{at}-{count}.jsonl");
        }
        name
    }

    /// Gives something another name, which nothing may have yet, durably.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.join(from), self.join(to));
        rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
        sync_directory(&self.0)
    }
}

/// The open file that grows.
#[derive(Debug)]
pub(super) struct Current {
    directory: Directory,
    file: File,
    /// The number of its first record, or of the one that will be.
    first: u64,
    /// How much of it is on disk for certain.
    length: u64,
    /// Something after that may be in it: a write that failed.
    spoiled: bool,
}

impl Current {
    /// A new one, whose first record will be this one.
    pub(super) fn make(directory: &Directory, first: u64) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory.join(CURRENT), flags, Mode::RUSR | Mode::WUSR)?;
        let file = File::from(fd);
        // Its name has to be as durable as what will be in it.
        sync_directory(&directory.0)?;
        Ok(Self { directory: directory.clone(), file, first, length: 0, spoiled: false })
    }

    /// One that is there; what comes after `length` bytes is cut off.
    pub(super) fn go_on(directory: &Directory, file: File, first: u64, length: u64) -> io::Result<Self> {
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        // Whoever wrote it may have died before it was on disk.
        file.sync_all()?;
        Ok(Self { directory: directory.clone(), file, first, length, spoiled: false })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether the file of that name still is the open one, as long as it was left.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        let there = match fs::symlink_metadata(self.directory.join(CURRENT)) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let same = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        Ok(same && (ours.len() == self.length || self.spoiled))
    }

    /// Appends whole lines; they are on disk when this returns. After an error none of them counts as written.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.spoiled {
            self.file.set_len(self.length)?;
        }
        // After a failed sync what was written may be lost though it reads back, so it is written anew then.
        self.spoiled = true;
        fault::point("export.before_append");
        self.file.write_all(lines)?;
        fault::point("export.appended");
        self.file.sync_data()?;
        fault::point("export.synced");
        self.spoiled = false;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Takes the half-written end off, so that nobody sees it while nothing more can be written.
    pub(super) fn tidy(&mut self) {
        if self.spoiled && self.file.set_len(self.length).is_ok() && self.file.sync_all().is_ok() {
            self.spoiled = false;
        }
    }

    /// Closes it under the name of its first record.
    pub(super) fn close(&self) -> io::Result<()> {
        self.directory.rename(CURRENT, &self.closed_name())?;
        fault::point("export.rotated");
        Ok(())
    }

    /// The name that it is closed under.
    pub(super) fn closed_name(&self) -> String {
        format!("audit-{:012}.jsonl", self.first)
    }
}

/// Lines of a file, from its beginning to a byte.
pub(super) fn lines(file: &File, length: u64) -> io::Result<Lines<impl BufRead + use<'_>>> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    Ok(Lines::new(BufReader::with_capacity(64 << 10, file.take(length))))
}

/// Whether a piece is the end of a file, torn or not.
pub(super) fn is_end(piece: &Piece) -> bool {
    matches!(piece, Piece::End | Piece::Torn(_))
}
