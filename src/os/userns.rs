//! Whether this host lets a process make a user namespace, and if not, who forbids it. Reads kernel settings only.

use std::fmt;

/// Who forbids user namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `user.max_user_namespaces` is 0, here or in a namespace around this one.
    Maximum,
    /// AppArmor denies them to programs without a profile, as on recent Ubuntu.
    AppArmor,
    /// `kernel.unprivileged_userns_clone` is 0.
    Debian,
    /// The system call is refused: a container's seccomp filter, or another security module.
    Filter,
    /// The ids cannot be mapped: this process is itself in a user namespace that does not have them.
    Ids,
}

/// The settings that decide, as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `/proc/sys/user/max_user_namespaces`
    pub maximum: Option<u64>,
    /// `/proc/sys/kernel/apparmor_restrict_unprivileged_userns`
    pub apparmor: Option<u64>,
    /// `/proc/sys/kernel/unprivileged_userns_clone`
    pub debian: Option<u64>,
}

impl Settings {
    /// The settings of this host.
    pub fn read() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            maximum: number("/proc/sys/user/max_user_namespaces"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            debian: number("/proc/sys/kernel/unprivileged_userns_clone"),
        }
    }

    /// The likeliest cause of a failed probe: the step that failed, and its error number.
    pub fn cause(&self, step: &str, errno: i32) -> Cause {
        if self.maximum == Some(0) || errno == libc::ENOSPC {
            Cause::Maximum
        } else if step.contains("_map") && errno == libc::EPERM && self.apparmor != Some(1)
            || errno == libc::EINVAL
        {
            Cause::Ids
        } else if self.debian == Some(0) {
            Cause::Debian
        } else if self.apparmor == Some(1) {
            Cause::AppArmor
        } else {
            Cause::Filter
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Maximum => {
                "this host allows no user namespaces (user.max_user_namespaces is 0 here or around this \
                 container): `sysctl -w user.max_user_namespaces=15000`, or run the service as root outside a \
                 container"
            }
            Cause::AppArmor => {
                "AppArmor forbids user namespaces to programs without a profile \
                 (kernel.apparmor_restrict_unprivileged_userns is 1): install the profile with `sudo ironclaw \
                 install`, or run the service as root, or `sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0`"
            }
            Cause::Debian => {
                "this host forbids user namespaces to ordinary users (kernel.unprivileged_userns_clone is 0): \
                 `sysctl -w kernel.unprivileged_userns_clone=1`, or run the service as root"
            }
            Cause::Filter => {
                "user namespaces are refused here, most likely by a container's seccomp profile: run the \
                 service outside the container, or give the container a profile that allows unshare and mount \
                 (for Docker `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`)"
            }
            Cause::Ids => {
                "the ids of the sandboxes cannot be mapped here: inside a container with few ids run the service \
                 as an ordinary user, or choose ids that exist with --sandbox-uid-base"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_from_settings_and_error() {
        let none = Settings::default();
        let with = |maximum, apparmor, debian| Settings { maximum, apparmor, debian };
        for (settings, step, errno, expected) in [
            (with(Some(0), None, None), "unshare", libc::ENOSPC, Cause::Maximum),
            (none.clone(), "unshare", libc::ENOSPC, Cause::Maximum),
            (with(Some(9), Some(1), None), "making the mounts private", libc::EACCES, Cause::AppArmor),
            (with(Some(9), Some(1), None), "writing /proc/self/uid_map", libc::EPERM, Cause::AppArmor),
            (with(Some(9), Some(0), Some(0)), "unshare", libc::EPERM, Cause::Debian),
            (with(Some(9), None, None), "unshare", libc::EPERM, Cause::Filter),
            (with(Some(9), None, None), "writing /proc/self/uid_map", libc::EPERM, Cause::Ids),
            (none, "setresuid", libc::EINVAL, Cause::Ids),
        ] {
            assert_eq!(settings.cause(step, errno), expected, "{settings:?} {step} {errno}");
        }
    }
}
