//! What of the host a step grants: as it is stored, shown and digested. Pure.

use super::super::payload::{Refusal, Refusals, fields, text};
use crate::contract::json::Value;
use crate::controlplane::grants::packages::Tree;
use crate::controlplane::store::grants::{Grant, What};
use crate::os::source::Which;

/// A package that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Which of those of its name.
    pub version: String,
    /// What is in it.
    pub tree: Tree,
}

/// A mount that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// A directory of the host, to be read.
    Directory {
        /// Its path.
        source: String,
        /// Which directory that is.
        which: Which,
    },
    /// A directory that the daemon makes for the group, to be written.
    Own,
}

/// The words for what a mount may be used for.
pub const READ: &str = "ro";
/// The other one.
pub const WRITE: &str = "rw";

impl Package {
    /// As the ledger keeps it.
    pub fn grant(&self, name: &str) -> Grant {
        let what = What::Package { version: self.version.clone(), digest: self.tree.digest.clone() };
        Grant { name: name.to_owned(), what }
    }

    pub(super) fn to_value(&self) -> Value {
        Value::object([
            ("version", Value::from(self.version.as_str())),
            ("digest", Value::from(self.tree.digest.as_str())),
            ("files", Value::from(self.tree.files)),
            ("bytes", Value::from(self.tree.bytes)),
        ])
    }

    pub(super) fn from_value(value: &Value) -> Result<Self, Refusals> {
        fields(value, &["version", "digest", "files", "bytes"])?;
        Ok(Self {
            version: text(value, "version", 64)?,
            tree: Tree {
                digest: text(value, "digest", 64)?,
                files: number(value, "files")?,
                bytes: number(value, "bytes")?,
            },
        })
    }
}

impl Mount {
    /// As the ledger keeps it.
    pub fn grant(&self, name: &str) -> Grant {
        let what = match self {
            Self::Directory { source, which } => What::Directory { source: source.clone(), which: *which },
            Self::Own => What::Own,
        };
        Grant { name: name.to_owned(), what }
    }

    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Directory { source, which } => {
                let fields = [
                    ("source", Value::from(source.as_str())),
                    ("access", Value::from(READ)),
                    ("device", Value::from(which.device)),
                    ("inode", Value::from(which.inode)),
                ];
                let born = which.born.map(|born| ("born", Value::from(born)));
                Value::object(fields.into_iter().chain(born))
            }
            Self::Own => Value::object([("source", Value::Null), ("access", Value::from(WRITE))]),
        }
    }

    pub(super) fn from_value(value: &Value) -> Result<Self, Refusals> {
        if value.get("source") == Some(&Value::Null) {
            fields(value, &["source", "access"])?;
            return Ok(Self::Own);
        }
        fields(value, &["source", "access", "device", "inode", "born"])?;
        Ok(Self::Directory {
            source: text(value, "source", usize::MAX)?,
            which: Which {
                device: number(value, "device")?,
                inode: number(value, "inode")?,
                born: value.get("born").map(|_| number(value, "born")).transpose()?,
            },
        })
    }
}

fn number(value: &Value, name: &str) -> Result<u64, Refusals> {
    let wrong = || vec![Refusal::new("effect", format!("the stored effect has a wrong {name}"))];
    value.get(name).and_then(Value::as_u64).ok_or_else(wrong)
}
