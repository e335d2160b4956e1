//! Whether one agent answers one message: from the terms of its wiring, who speaks, and what is said. The order is that
//! of [`decide`]: other programs first, then whether the agent hears the speaker at all, then whether it is meant. Pure.

use std::fmt;

use crate::controlplane::channels::event::Voice;
use crate::controlplane::store::wirings::Terms;

/// What makes an agent answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engage {
    /// Every message.
    All,
    /// A message that names it.
    Mention,
    /// The same, and then what follows in that thread for a while.
    Sticky,
    /// A message in which the pattern is found.
    Pattern,
}

/// What becomes of messages from people who are neither members nor have a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They never reach the agent.
    Strict,
    /// What would be answered is kept until somebody admits the sender.
    RequestApproval,
    /// They reach it: as a question where it hears anyone, else only to be read along.
    Public,
}

/// How an agent takes part, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What makes it answer.
    pub engage: Engage,
    /// It answers anyone, not only members.
    pub hears_anyone: bool,
    /// What becomes of strangers.
    pub unknown: Unknown,
    /// It reads what it does not answer.
    pub accumulates: bool,
}

impl Manner {
    /// Reads the ledger's words; `None` when one of them is none that this version knows.
    pub fn of(terms: &Terms) -> Option<Self> {
        Some(Self {
            engage: match terms.engage.as_str() {
                "all" => Engage::All,
                "mention" => Engage::Mention,
                "mention-sticky" => Engage::Sticky,
                "pattern" => Engage::Pattern,
                _ => return None,
            },
            hears_anyone: match terms.senders.as_str() {
                "anyone" => true,
                "members" => false,
                _ => return None,
            },
            unknown: match terms.unknown.as_str() {
                "strict" => Unknown::Strict,
                "request_approval" => Unknown::RequestApproval,
                "public" => Unknown::Public,
                _ => return None,
            },
            accumulates: match terms.ignored.as_str() {
                "accumulate" => true,
                "drop" => false,
                _ => return None,
            },
        })
    }
}

/// Who speaks, as the agent's group knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A member, or somebody who may operate the group.
    Known,
    /// Anybody else; an approver decides and does not talk.
    Stranger,
}

/// One message before one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// How the agent takes part.
    pub manner: Manner,
    /// Who speaks.
    pub speaker: Speaker,
    /// What speaks.
    pub voice: Voice,
    /// It has spoken so often that the two may be answering each other.
    pub is_loop: bool,
    /// It is a new message, and not the change of an earlier one.
    pub is_new: bool,
    /// It names the agent, or nobody else is there.
    pub is_mentioned: bool,
    /// The pattern is found in it.
    pub matches: bool,
    /// The agent was named in this thread a while ago.
    pub is_sticky: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It starts a turn.
    Engage,
    /// It rides along with the next one.
    Accumulate,
    /// It waits until its sender is admitted.
    Hold,
    /// Nothing.
    Drop,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engage => "engage",
            Self::Accumulate => "accumulate",
            Self::Hold => "hold",
            Self::Drop => "drop",
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The agent answers everything.
    Everything,
    /// It was named.
    Mentioned,
    /// It was named in this thread a while ago.
    Sticky,
    /// Its pattern was found.
    Matched,
    /// It was not named.
    NotMentioned,
    /// Its pattern was not found.
    NotMatched,
    /// An earlier message was changed.
    Changed,
    /// A program that is no member.
    Bot,
    /// A program that speaks too often.
    Loop,
    /// A stranger, and the agent hears none.
    Stranger,
    /// A stranger, who may be admitted.
    NotAdmitted,
    /// A stranger whom the agent reads, but does not answer.
    Guest,
    /// As much waits as may.
    Full,
    /// It answers a question of the agent.
    Answer,
}

impl Reason {
    /// The code for it, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Mentioned => "mentioned",
            Self::Sticky => "sticky",
            Self::Matched => "matched",
            Self::NotMentioned => "not_mentioned",
            Self::NotMatched => "not_matched",
            Self::Changed => "changed",
            Self::Bot => "bot",
            Self::Loop => "loop",
            Self::Stranger => "stranger",
            Self::NotAdmitted => "not_admitted",
            Self::Guest => "guest",
            Self::Full => "full",
            Self::Answer => "answer",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everything => "it answers every message here",
            Self::Mentioned => "it is named",
            Self::Sticky => "it was named in this thread a while ago",
            Self::Matched => "its pattern is found",
            Self::NotMentioned => "it is not named",
            Self::NotMatched => "its pattern is not found",
            Self::Changed => "an earlier message was changed",
            Self::Bot => "a program that is no member",
            Self::Loop => "a program, or what may be one, that speaks too often",
            Self::Stranger => "the sender is no member",
            Self::NotAdmitted => "the sender is no member and waits to be admitted",
            Self::Guest => "the sender is no member; it is read and not answered",
            Self::Full => "as much waits already as may",
            Self::Answer => "it answers a question of the agent",
        })
    }
}

/// What becomes of a message, and why.
pub fn decide(hearing: &Hearing) -> (Verdict, Reason) {
    let Hearing { manner, speaker, .. } = hearing;
    let is_known = *speaker == Speaker::Known;
    // Two agents that answer each other end never; a program that a human made a member is heard, up to a point.
    if hearing.voice == Voice::Program && !is_known {
        return (Verdict::Drop, Reason::Bot);
    }
    let read = |reason| match manner.accumulates {
        true => (Verdict::Accumulate, reason),
        false => (Verdict::Drop, reason),
    };
    let (is_meant, why) = meant(hearing);
    match (is_known, manner.unknown) {
        (false, Unknown::Strict) => return (Verdict::Drop, Reason::Stranger),
        // What nobody would answer is not worth anybody's decision.
        (false, Unknown::RequestApproval) if is_meant => return (Verdict::Hold, Reason::NotAdmitted),
        (false, Unknown::RequestApproval) => return (Verdict::Drop, Reason::Stranger),
        (false, Unknown::Public) if !manner.hears_anyone => return read(Reason::Guest),
        _ => {}
    }
    match (is_meant, hearing.voice.may_be_a_program() && hearing.is_loop) {
        (true, true) => read(Reason::Loop),
        (true, false) => (Verdict::Engage, why),
        (false, _) => read(why),
    }
}

/// Whether the agent would answer if it heard the speaker.
fn meant(hearing: &Hearing) -> (bool, Reason) {
    if !hearing.is_new {
        return (false, Reason::Changed);
    }
    match hearing.manner.engage {
        Engage::All => (true, Reason::Everything),
        Engage::Mention | Engage::Sticky if hearing.is_mentioned => (true, Reason::Mentioned),
        Engage::Sticky if hearing.is_sticky => (true, Reason::Sticky),
        Engage::Mention | Engage::Sticky => (false, Reason::NotMentioned),
        Engage::Pattern if hearing.matches => (true, Reason::Matched),
        Engage::Pattern => (false, Reason::NotMatched),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line of the table says of a message that is meant, and of one that is not.
    #[track_caller]
    fn said(table: &str) {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [speaker, senders, unknown, ignored, engage, said, verdict, reason] = words[..] else {
                panic!("{line}")
            };
            let terms = Terms {
                engage: engage.into(),
                pattern: None,
                senders: senders.into(),
                unknown: unknown.into(),
                ignored: ignored.into(),
                sessions: "shared".into(),
            };
            let hearing = Hearing {
                manner: Manner::of(&terms).unwrap(),
                speaker: if speaker.starts_with("known") { Speaker::Known } else { Speaker::Stranger },
                voice: match () {
                    () if speaker.contains("-bot") => Voice::Program,
                    () if speaker.contains("-chat") => Voice::Chat,
                    () => Voice::Person,
                },
                is_loop: speaker.ends_with("-loop"),
                is_new: said != "edit",
                is_mentioned: said == "named",
                matches: said == "match",
                is_sticky: said == "after",
            };
            let (got, why) = decide(&hearing);
            assert_eq!((got.as_str(), why.as_str()), (verdict, reason), "{line}");
        }
    }

    #[test]
    fn members_are_answered_as_the_mode_says() {
        said(
            "
            known members strict drop       all            plain engage     everything
            known members strict drop       mention        named engage     mentioned
            known members strict drop       mention        plain drop       not_mentioned
            known members strict accumulate mention        plain accumulate not_mentioned
            known members strict drop       mention        after drop       not_mentioned
            known members strict drop       mention-sticky named engage     mentioned
            known members strict drop       mention-sticky after engage     sticky
            known members strict drop       mention-sticky plain drop       not_mentioned
            known members strict accumulate mention-sticky plain accumulate not_mentioned
            known members strict drop       pattern        match engage     matched
            known members strict drop       pattern        named drop       not_matched
            known members strict accumulate pattern        plain accumulate not_matched
            known members strict drop       all            edit  drop       changed
            known members strict accumulate all            edit  accumulate changed
            known anyone  public drop       mention        named engage     mentioned
            known members request_approval drop mention    named engage     mentioned
        ",
        );
    }

    #[test]
    fn strangers_are_heard_as_the_policy_and_the_scope_say() {
        said(
            "
            stranger members strict           drop       all     plain drop       stranger
            stranger members strict           accumulate all     plain drop       stranger
            stranger members strict           accumulate mention named drop       stranger
            stranger anyone  strict           drop       all     plain drop       stranger
            stranger members request_approval drop       all     plain hold       not_admitted
            stranger members request_approval drop       mention named hold       not_admitted
            stranger members request_approval accumulate mention plain drop       stranger
            stranger members request_approval drop       pattern match hold       not_admitted
            stranger members request_approval drop       all     edit  drop       stranger
            stranger anyone  request_approval drop       all     plain hold       not_admitted
            stranger members public           drop       all     plain drop       guest
            stranger members public           accumulate all     plain accumulate guest
            stranger members public           accumulate mention named accumulate guest
            stranger anyone  public           drop       all     plain engage     everything
            stranger anyone  public           drop       mention named engage     mentioned
            stranger anyone  public           drop       mention plain drop       not_mentioned
            stranger anyone  public           accumulate pattern plain accumulate not_matched
        ",
        );
    }

    #[test]
    fn programs_are_heard_only_as_members_and_not_without_end() {
        said(
            "
            stranger-bot  anyone  public           accumulate all     plain drop   bot
            stranger-bot  members request_approval drop       all     plain drop   bot
            known-bot     members strict           drop       mention named engage mentioned
            known-bot-loop members strict          drop       mention named drop   loop
            known-bot-loop members strict          accumulate mention named accumulate loop
            known-bot-loop members strict          accumulate mention plain accumulate not_mentioned
            known-loop    members strict           drop       mention named engage mentioned
        ",
        );
    }

    /// A chat in whose name somebody writes is heard as a person is, but not without end: a program may be behind it.
    #[test]
    fn who_speaks_for_a_chat_is_not_answered_without_end() {
        said(
            "
            known-chat         members strict drop       all plain engage     everything
            known-chat-loop    members strict drop       all plain drop       loop
            stranger-chat      anyone  public drop       all plain engage     everything
            stranger-chat-loop anyone  public drop       all plain drop       loop
            stranger-chat-loop anyone  public accumulate all plain accumulate loop
        ",
        );
    }

    /// Over all there can be: no stranger starts a turn where only members are heard, and nothing that is not answered
    /// by a member's message is by a stranger's.
    #[test]
    fn a_stranger_never_has_more_than_a_member() {
        let flags = [false, true];
        for engage in [Engage::All, Engage::Mention, Engage::Sticky, Engage::Pattern] {
            for unknown in [Unknown::Strict, Unknown::RequestApproval, Unknown::Public] {
                for bits in 0..256u32 {
                    let flag = |at: u32| flags[usize::from(bits >> at & 1 == 1)];
                    let manner = Manner { engage, hears_anyone: flag(0), unknown, accumulates: flag(1) };
                    let of = |speaker| Hearing {
                        manner,
                        speaker,
                        voice: if flag(2) { Voice::Program } else { Voice::Chat },
                        is_loop: flag(3),
                        is_new: flag(4),
                        is_mentioned: flag(5),
                        matches: flag(6),
                        is_sticky: flag(7),
                    };
                    let (stranger, why) = decide(&of(Speaker::Stranger));
                    let (known, _) = decide(&of(Speaker::Known));
                    let is_engaged = stranger == Verdict::Engage;
                    assert!(!is_engaged || (manner.hears_anyone && unknown == Unknown::Public), "{why}");
                    assert!(!is_engaged || known == Verdict::Engage, "{why}");
                    assert_ne!(known, Verdict::Hold);
                }
            }
        }
    }
}
