//! The first command of the README, in the open and alone in an empty root.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::home::{executable, finish};
use crate::world::{Build, Home, Runtime, User, leftovers};

crate::world::boxes::in_every_box!(a_demo_answers_names_its_back_end_and_leaves_nothing);

fn a_demo_answers_names_its_back_end_and_leaves_nothing(runtime: Runtime, user: User) {
    let home = Home::new(Build::Release, user);
    let mut command = home.command(["demo", "--once", "--runtime", runtime.flag()]);
    command.env("TMPDIR", home.root.join("user"));
    let output = finish(command.spawn().unwrap());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("mock-agent received:"), "{said}");
    let name = match runtime {
        Runtime::Gvisor => "gvisor",
        Runtime::Native => "native",
    };
    let first = said.lines().next().unwrap_or_default().to_lowercase();
    assert!(first.contains(name), "the first line names the back end: {said}");
    assert_eq!(home.processes(), Vec::<i32>::new());
    assert_eq!(leftovers::mounts(&home.root), Vec::<String>::new());
    let left = leftovers::files_below(&home.root.join("user"));
    assert!(left.iter().all(|path| path.is_dir()), "{left:?}");
}

#[test]
fn a_demo_without_choice_takes_the_stronger_wall_and_says_so_on_its_first_line() {
    let home = Home::new(Build::Release, User::Root);
    let output = home.run(["demo", "--once"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let first = said.lines().next().unwrap_or_default().to_lowercase();
    assert!(first.contains("gvisor") && !first.contains("native"), "runsc is installed here: {said}");
}

/// The executable and nothing else, in a root that holds only `/proc`, `/dev` and a writable `/tmp`.
#[test]
fn the_executable_alone_runs_in_an_empty_root() {
    let scratch = Home::new(Build::Release, User::Root);
    let root = scratch.root.join("empty");
    std::fs::create_dir(&root).unwrap();
    for words in
        [&["version"][..], &["help"], &["demo", "--once"], &["demo", "--once", "--runtime", "native"]]
    {
        let output = finish(alone(&root, words).spawn().unwrap());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.len() > 5, "{words:?}: {output:?}");
        if words[0] == "demo" {
            assert!(said.contains("mock-agent received:"), "{said}");
            let first = said.lines().next().unwrap_or_default().to_lowercase();
            assert!(first.contains("native"), "there is no runsc in this root: {said}");
        }
    }
}

/// The executable with these words in an empty root that is made at this directory, in a mount namespace of
/// its own.
pub(crate) fn alone(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private", "sh", "-c", ALONE, "sh"])
        .args([root.as_os_str(), executable(Build::Release).as_os_str()])
        .args(words)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Makes the empty root, enters it, and detaches the old one: its own tools are then found nowhere, so the
/// last unmount is run by the old root's loader.
const ALONE: &str = r#"
    set -e
    new=$1; program=$2; shift 2
    mount -t tmpfs -o mode=755 empty "$new"
    mkdir "$new/proc" "$new/dev" "$new/tmp" "$new/old"
    chmod 1777 "$new/tmp"
    mount --rbind /proc "$new/proc"
    mount --rbind /dev "$new/dev"
    cp "$program" "$new/ironclaw"
    chmod 755 "$new/ironclaw"
    libraries=$(ls -d /usr/lib/*-linux-gnu /lib/*-linux-gnu | sed 's,^,/old,' | paste -sd:)
    cd "$new"
    pivot_root . old
    cd /
    for loader in /old/lib64/ld-linux-*.so.* /old/lib/ld-linux-*.so.*; do
        if [ -e "$loader" ]; then
            "$loader" --library-path "$libraries" /old/bin/umount -l /old
            break
        fi
    done
    exec /ironclaw "$@"
"#;
