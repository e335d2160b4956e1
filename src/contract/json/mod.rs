//! The JSON gate.
