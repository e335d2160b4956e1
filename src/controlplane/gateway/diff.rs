//! What would be different, in plain words, for the one who decides: before and after, line by line for texts.
//! Everything that somebody else wrote is escaped, so that it cannot move the cursor, hide or turn around, and among words
//! of the host it is in quotes, so that it cannot speak for the host. Reads the ledger.

use std::fmt::Write;
use std::time::Duration;

use rusqlite::Connection;
use similar::{ChangeTag, TextDiff};

use super::effect::{Effect, Mount, Package};
use crate::contract::chain;
use crate::contract::ids::GroupName;
use crate::contract::inbound::AGENT;
use crate::contract::{paths, plain};
use crate::controlplane::store::destinations::{self, Target};
use crate::controlplane::store::grants::{self, Sort, What};
use crate::controlplane::store::groups::{self, Tools};
use crate::controlplane::store::wirings::{self, Terms};
use crate::controlplane::store::{StoreError, roles};
use crate::os::source::Which;

/// Most bytes of one text's difference: the longest documents before and after it fit, unless they are full of what
/// must be escaped. The rest is named by its length and its digest.
const MOST: usize = 256 << 10;
/// Lines around a difference.
const AROUND: usize = 3;
/// After so long the difference is the whole old text and the whole new one. The ledger's writer waits meanwhile; texts
/// that people write take a tenth of it.
const PATIENCE: Duration = Duration::from_millis(15);

/// All steps, one paragraph each.
pub(super) fn all(conn: &Connection, effects: &[Effect]) -> Result<String, StoreError> {
    let mut shown = String::new();
    for effect in effects {
        if !shown.is_empty() {
            shown.push('\n');
        }
        one(conn, effect, &mut shown)?;
    }
    Ok(shown)
}

fn one(conn: &Connection, effect: &Effect, shown: &mut String) -> Result<(), StoreError> {
    // Writing into a text cannot fail.
    let _ = match effect {
        Effect::CreateAgent { group, title, provider, model } => writeln!(
            shown,
            "new agent {group}, titled {}, model {}",
            plain::word(title),
            model_line(provider, model)
        ),
        Effect::SetDocument { group, document, text } => {
            let before = groups::live(conn, group)?
                .map_or_else(String::new, |now| now.persona.document(*document).to_owned());
            let _ = writeln!(
                shown,
                "{group}: {} of the persona, {} to {} bytes",
                document.as_str(),
                before.len(),
                text.len()
            );
            lines(&before, text, shown);
            Ok(())
        }
        Effect::SetTools { group, tools } => {
            let before = groups::live(conn, group)?.map_or(Tools::None, |now| now.tools);
            writeln!(shown, "{group}: tools\n- {}\n+ {}", tools_line(&before), tools_line(tools))
        }
        Effect::SetModel { group, provider, model } => {
            let before = groups::live(conn, group)?
                .map_or_else(|| "none".to_owned(), |now| model_line(&now.provider, &now.model));
            writeln!(shown, "{group}: model\n- {before}\n+ {}", model_line(provider, model))
        }
        Effect::SetRole { user, role, scope, given } => {
            let place = scope.as_ref().map_or_else(|| "all agents".to_owned(), GroupName::to_string);
            let user = user.to_string();
            let (sign, verb) = if *given { ('+', "gets") } else { ('-', "loses") };
            let known = roles::of(
                conn,
                &crate::contract::ids::UserId::parse(&user).map_err(|_| StoreError::BadRow("a user's id"))?,
            )?;
            let has = if known.is_empty() {
                "no role until now".to_owned()
            } else {
                let all: Vec<String> = known
                    .iter()
                    .map(|held| {
                        let of = held.scope.as_ref().map_or("all agents", GroupName::as_str);
                        format!("{} of {of}", held.role.as_str())
                    })
                    .collect();
                format!("until now {}", all.join(", "))
            };
            writeln!(
                shown,
                "{} {verb} the role {} of {place} ({has})\n{sign} {}",
                plain::word(&user),
                role.as_str(),
                role.as_str()
            )
        }
        Effect::SetMember { group, user, given } => {
            let (sign, what) =
                if *given { ('+', "becomes a member") } else { ('-', "is no member any more") };
            let user = user.to_string();
            writeln!(shown, "{group}: {} {what}\n{sign} {}", plain::word(&user), plain::word(&user))
        }
        Effect::SetWiring { group, chat, terms } => {
            let before = wirings::find(conn, group, chat.parts())?.map(|wiring| wiring.terms);
            let account = if chat.instance.is_empty() {
                String::new()
            } else {
                format!("/{}", plain::word(&chat.instance))
            };
            let _ = writeln!(
                shown,
                "{group}: chat {} on {}{account}",
                plain::word(&chat.chat),
                plain::word(&chat.channel)
            );
            let others = wirings::others(conn, group, chat.parts())?;
            if !others.is_empty() {
                let _ = writeln!(shown, "  also there: {}", others.join(", "));
            }
            if let Some(before) = &before {
                let _ = writeln!(shown, "- {}", terms_line(before));
            }
            match terms {
                Some(terms) => writeln!(shown, "+ {}", terms_line(terms)),
                None if before.is_none() => writeln!(shown, "- (not wired)"),
                None => Ok(()),
            }
        }
        Effect::SetDestination { group, name, target } => {
            let before = destinations::find(conn, group, name)?.map(|known| known.target);
            let is_agent = |target: &Target| target.channel == AGENT;
            let what = match (target, &before) {
                (Some(target), _) | (None, Some(target)) if is_agent(target) => {
                    "another agent that it may write to, which answers it"
                }
                _ => "a chat that it may send to unasked",
            };
            let _ = writeln!(shown, "{group}: destination {name}, {what}");
            let before = before.as_ref().map_or_else(|| "none".to_owned(), target_line);
            granted(&before, target.as_ref().map(target_line), shown)
        }
        Effect::SetPackage { group, name, package } => {
            let _ = writeln!(shown, "{group}: package {name}, read at {}/{name}", paths::PACKAGES);
            let before = before(conn, group, Sort::Package, name)?;
            granted(&before, package.as_ref().map(package_line), shown)
        }
        Effect::SetMount { group, name, mount } => {
            let _ = writeln!(shown, "{group}: mount {name}, seen at {}/{name}", paths::MOUNTS);
            let before = before(conn, group, Sort::Mount, name)?;
            granted(&before, mount.as_ref().map(mount_line), shown)
        }
    };
    Ok(())
}

/// What there is of a name, and what takes its place.
fn granted(before: &str, after: Option<String>, shown: &mut String) -> std::fmt::Result {
    writeln!(shown, "- {before}\n+ {}", after.as_deref().unwrap_or("none"))
}

/// What there is of a name.
fn before(conn: &Connection, group: &GroupName, sort: Sort, name: &str) -> Result<String, StoreError> {
    Ok(match grants::find(conn, group, sort, name)?.map(|grant| grant.what) {
        None => "none".to_owned(),
        Some(What::Package { version, digest }) => format!("{version}: digest {digest}"),
        Some(What::Directory { source, which }) => mount_line(&Mount::Directory { source, which }),
        Some(What::Own) => mount_line(&Mount::Own),
    })
}

fn target_line(target: &Target) -> String {
    let Target { display_name, channel, instance, chat, thread } = target;
    let mut line = match channel.as_str() {
        AGENT => format!("the agent {}", plain::word(chat)),
        _ => format!("chat {} on {}", plain::word(chat), plain::word(channel)),
    };
    if !instance.is_empty() {
        line.push_str(&format!("/{}", plain::word(instance)));
    }
    if let Some(thread) = thread {
        line.push_str(&format!(", thread {}", plain::word(thread)));
    }
    if !display_name.is_empty() {
        line.push_str(&format!(", called {}", plain::word(display_name)));
    }
    line
}

fn package_line(package: &Package) -> String {
    let Package { version, tree } = package;
    format!("{version}: {} files, {} bytes, digest {}", tree.files, tree.bytes, tree.digest)
}

fn mount_line(mount: &Mount) -> String {
    match mount {
        Mount::Directory { source, which: Which { device, inode, .. } } => {
            format!("to read: {} (device {device}, inode {inode})", plain::word(source))
        }
        Mount::Own => "to read and write: a directory that is made for this agent".to_owned(),
    }
}

fn model_line(provider: &str, model: &str) -> String {
    format!("{} of {}", plain::word(model), plain::word(provider))
}

fn tools_line(tools: &Tools) -> String {
    match tools {
        Tools::All => "all, also those of later versions".to_owned(),
        Tools::None => "none".to_owned(),
        Tools::List(names) => names.join(", "),
    }
}

fn terms_line(terms: &Terms) -> String {
    let pattern =
        terms.pattern.as_ref().map_or_else(String::new, |pattern| format!(" {}", plain::word(pattern)));
    let strangers = match terms.unknown.as_str() {
        "strict" => "never reach it",
        "request_approval" => "wait to be admitted",
        _ if terms.senders == "anyone" => "are answered",
        _ => "are read, not answered",
    };
    format!(
        "answers {}{pattern}; hears {}; strangers {strangers}; what it does not answer: {}; conversations: {}",
        terms.engage, terms.senders, terms.ignored, terms.sessions
    )
}

/// The difference of two texts, with some lines around each place; cut where it is long.
fn lines(before: &str, after: &str, shown: &mut String) {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before, after);
    let mut text = String::new();
    'all: for (number, group) in diff.grouped_ops(AROUND).iter().enumerate() {
        if number > 0 {
            text.push_str("  …\n");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let line = change.value();
            let line = line.strip_suffix('\n').unwrap_or(line);
            let _ = writeln!(text, "{sign} {}", plain::line(line));
            if text.len() > MOST {
                break 'all;
            }
        }
    }
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        let _ = write!(
            text,
            "\n… cut here: the whole new text has {} bytes, SHA-256 {}\n",
            after.len(),
            chain::hex(&chain::hash(after))
        );
    }
    shown.push_str(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(before: &str, after: &str) -> String {
        let mut text = String::new();
        lines(before, after, &mut text);
        text
    }

    #[test]
    fn lines_that_stay_are_left_out() {
        let before: String = (0..50).map(|n| format!("line {n}\n")).collect();
        let after = before.replace("line 25\n", "other\n");
        let text = shown(&before, &after);
        assert!(text.contains("- line 25\n+ other\n"), "{text}");
        assert_eq!(text.lines().count(), 8, "{text}");
    }

    #[test]
    fn nothing_written_by_an_agent_reaches_the_terminal() {
        let text = shown("", "\u{1b}[2Jnice\r+ approved\u{202e}\n\u{200b}");
        assert_eq!(text, "+ \\u{1b}[2Jnice\\u{d}\n+ + approved\\u{202e}\n+ \\u{200b}\n");
    }

    #[test]
    fn no_text_among_the_words_of_a_line_speaks_for_the_host() {
        let terms = Terms {
            engage: "pattern".into(),
            pattern: Some(".; hears members; what it does not answer: drop; conversations: shared".into()),
            senders: "anyone".into(),
            unknown: "strict".into(),
            ignored: "drop".into(),
            sessions: "shared".into(),
        };
        let target = Target {
            display_name: "x, called \"ops\"".into(),
            channel: "api".into(),
            instance: String::new(),
            chat: "main on api, called ops".into(),
            thread: None,
        };
        let lines = [
            (terms_line(&terms), "hears members"),
            (target_line(&target), "main on api"),
            (target_line(&target), "called ops"),
            (model_line("mock", "safe of mock), x"), "safe of mock"),
        ];
        for (line, forged) in lines {
            let outside: String = line.split('"').step_by(2).collect();
            assert!(line.contains(forged) && !outside.contains(forged), "{line}");
            assert_eq!(line.matches('"').count() % 2, 0, "{line}");
        }
    }

    #[test]
    fn a_long_text_is_named_by_length_and_digest() {
        let after = "x".repeat(MOST * 2);
        let text = shown("", &after);
        assert!(text.len() < MOST + 200);
        assert!(text.contains(&format!(
            "{} bytes, SHA-256 {}",
            after.len(),
            chain::hex(&chain::hash(&after))
        )));
    }
}
