//! Demo, help and version.
