//! The sockets a sandbox may hold beside its doorbell. A capability that was not granted is a socket that
//! does not exist; closing a grant unlinks it and ends its connections. Touches upstream networks, later.

pub mod model;
