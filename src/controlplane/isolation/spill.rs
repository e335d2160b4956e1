//! What the fault tests put where it must never be, so that the probe inside is seen to find it: the session's key
//! among the arguments, every secret of the host in a file, a socket that nobody granted, another group's files.
//! Only in the faults build, and only for a sandbox that runs a test program.

use std::path::{Path, PathBuf};

use super::setup::hexadecimal;
use super::{LaunchError, SandboxSpec, at, layout};
use crate::contract::cipher::SessionKey;
use crate::contract::fault;

/// The group whose files a weakened sandbox sees beside its own.
const ANOTHER_GROUP: &str = "mock-agent";

/// The host's secrets, in the state directory.
const SECRETS: [&str; 3] = ["api-token", "master.key", "keystore"];

/// The launch with what the switches let leak.
pub(super) fn spill(spec: &SandboxSpec, key: &SessionKey) -> Result<SandboxSpec, LaunchError> {
    let mut spec = spec.clone();
    // The self-test at start runs the real program, which refuses arguments it does not know.
    if spec.executable_override.is_none() {
        return Ok(spec);
    }
    let key = hexadecimal(key.as_bytes());
    if fault::weakened("secret_file") {
        let path = spec.paths.inbound_dir.join("leaked");
        let mut text = key.clone();
        let state = spec.paths.workspace.parent().and_then(Path::parent);
        for secret in state.iter().flat_map(|state| SECRETS.map(|name| state.join(name))) {
            text.push_str(&std::fs::read_to_string(&secret).map_err(at("leaking", &secret))?);
        }
        let written = std::fs::write(&path, &text);
        written.and_then(|()| layout::hand_over(&path, spec.identity)).map_err(at("leaking", &path))?;
    }
    if fault::weakened("secret_argument") {
        spec.args.extend(["--leaked".to_owned(), key]);
    }
    if fault::weakened("granted_sockets") {
        let path = spec.paths.sockets.join("extra.sock");
        layout::bind_socket(&path, spec.identity).map_err(at("binding", &path))?;
    }
    Ok(spec)
}

/// The workspace of another group, where the switch shows it to this one.
pub(super) fn another_group(spec: &SandboxSpec) -> Option<PathBuf> {
    let leaks = fault::weakened("own_group") && spec.executable_override.is_some();
    leaks.then(|| spec.paths.workspace.parent().map(|all| all.join(ANOTHER_GROUP))).flatten()
}
