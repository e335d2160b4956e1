//! Where things are inside the sandbox: the one source of truth for the bundle, the cage and the agent.

/// Numeric user and group of the agent process inside the box, wherever more than id 0 can be mapped.
pub const INNER_ID: u32 = 65532;
/// The executable, a read-only bind of one file.
pub const EXECUTABLE: &str = "/ironclaw";
/// Read-only directory that holds the inbound conveyor.
pub const INBOUND_DIR: &str = "/in";
/// The inbound conveyor.
pub const INBOUND: &str = "/in/inbound.db";
/// A tmpfs; only [`OUTBOUND`] in it reaches the host.
pub const OUTBOUND_DIR: &str = "/out";
/// The outbound conveyor: a single bound file, so that nothing beside it reaches the host.
pub const OUTBOUND: &str = "/out/outbound.db";
/// Read-write directory of this session alone.
pub const SESSION_DIR: &str = "/session";
/// Transcript, step journal and outputs not yet accepted.
pub const SESSION: &str = "/session/session.db";
/// Read-only directory that holds the sockets this session was granted.
pub const SOCKET_DIR: &str = "/run/ironclaw";
/// Rings and acknowledgements.
pub const DOORBELL: &str = "/run/ironclaw/doorbell.sock";
/// The model proxy.
pub const MODEL: &str = "/run/ironclaw/model.sock";
/// The agent group's files.
pub const WORKSPACE: &str = "/workspace";
/// The agent group's durable memory.
pub const MEMORY: &str = "/memory";
/// Scratch space of bounded size.
pub const TMP: &str = "/tmp";
/// Read-only directory that holds a directory for each package.
pub const PACKAGES: &str = "/opt/packages";
/// Directory that holds a directory for each mount.
pub const MOUNTS: &str = "/mnt";
