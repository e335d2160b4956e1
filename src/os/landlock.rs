//! Landlock: the kernel's own list of what this process may do with which paths, on top of mounts and modes.
//! Touches this process only.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};

/// The version of its interface that this kernel has; `None` when there is none or it is switched off.
pub fn version() -> Option<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no attributes, makes nothing and returns a number (landlock(7)).
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// How much of it this kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All that was asked for.
    Fully,
    /// An older kernel leaves something out.
    Partly,
    /// There is none, as in gVisor.
    Not,
}

/// Paths and what may be done below them; everything else is refused, TCP and abstract sockets included.
#[derive(Clone, Copy, Debug)]
pub struct Paths<'a> {
    /// Reading only.
    pub read: &'a [&'a str],
    /// Reading and writing, not executing.
    pub write: &'a [&'a str],
    /// Reading and executing.
    pub execute: &'a [&'a str],
    /// Device files: reading and writing, nothing else.
    pub devices: &'a [&'a str],
}

/// Restricts this thread and every thread it starts, for good. Needs `no_new_privs`, which it sets. Paths that do
/// not exist are left out.
pub fn restrict(paths: &Paths<'_>) -> io::Result<Enforced> {
    // The newest interface asked for; an older kernel enforces what it knows.
    let abi = ABI::V6;
    let all = AccessFs::from_all(abi);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(paths.read, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(paths.write, all & !AccessFs::Execute)))
        .and_then(|rules| {
            rules.add_rules(path_beneath_rules(paths.execute, AccessFs::ReadFile | AccessFs::Execute))
        })
        .and_then(|rules| {
            rules.add_rules(path_beneath_rules(paths.devices, AccessFs::ReadFile | AccessFs::WriteFile))
        })
        .and_then(|rules| rules.restrict_self())
        .map_err(io::Error::other)?;
    Ok(match restricted.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}
