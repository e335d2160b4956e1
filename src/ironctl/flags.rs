//! The payload of a change from the flags of its kind: which flag is of which kind, and what it says. Pure.

use super::Failure;
use super::submit::Submit;
use crate::contract::inbound::AGENT;
use crate::contract::json::Value;
use crate::contract::plain;

/// A field of a payload with what was given for it.
pub(super) type Text<'a> = (&'static str, &'a Option<String>);

/// What a kind wants, where nothing was given.
pub(super) fn missing(kind: &str) -> String {
    let how = match kind {
        "persona" => {
            "the text of the persona: --instructions TEXT, --identity TEXT, --soul TEXT, or --from FILE"
        }
        "enabled_tools" => {
            "the tools: --tool NAME for each, --all-tools or --no-tools (`ironctl tools` lists them)"
        }
        "model" => "the model: --model NAME, and --provider NAME to change that too",
        "permissions" => {
            "who: --grant USER:ROLE, --revoke USER:ROLE, --add-member USER or --remove-member USER"
        }
        "wiring" => {
            "the chats: --wire CHANNEL:CHAT or --unwire CHANNEL:CHAT; or where to send: --destination \
             NAME=CHANNEL:CHAT or --remove-destination NAME"
        }
        "packages" => "the packages: --add NAME@VERSION or --remove NAME",
        "mounts" => "the mounts: --mount NAME=DIR to read, --mount NAME to write, or --unmount NAME",
        "create_agent" => {
            "what it is: --title, --identity, --soul, --instructions, --tool, --model, --member, --wire or --destination \
             (`ironctl agent create` has templates)"
        }
        _ => {
            "the payload: --from FILE.json or --payload JSON; this program knows the flags of the kinds persona, \
             enabled_tools, model, wiring, permissions, packages, mounts and create_agent"
        }
    };
    format!("what is to change is missing; give {how}")
}

/// The payload that the flags of a kind make; a flag of another kind is wrong usage.
pub(super) fn flags(asked: &Submit) -> Result<Option<Value>, Failure> {
    let given: &[(&[&str], &str, bool)] = &[
        (&["create_agent"], "--title", asked.title.is_some()),
        (&["persona", "create_agent"], "--identity", asked.identity.is_some()),
        (&["persona", "create_agent"], "--soul", asked.soul.is_some()),
        (&["persona", "create_agent"], "--instructions", asked.instructions.is_some()),
        (&["enabled_tools", "create_agent"], "--tool", !asked.tool.is_empty()),
        (&["enabled_tools", "create_agent"], "--all-tools", asked.all_tools),
        (&["enabled_tools", "create_agent"], "--no-tools", asked.no_tools),
        (&["model", "create_agent"], "--provider", asked.provider.is_some()),
        (&["model", "create_agent"], "--model", asked.model.is_some()),
        (&["create_agent"], "--member", !asked.member.is_empty()),
        (&["permissions"], "--grant", !asked.grant.is_empty()),
        (&["permissions"], "--revoke", !asked.revoke.is_empty()),
        (&["permissions"], "--add-member", !asked.add_member.is_empty()),
        (&["permissions"], "--remove-member", !asked.remove_member.is_empty()),
        (&["wiring", "create_agent"], "--wire", !asked.wire.is_empty()),
        (&["wiring"], "--unwire", !asked.unwire.is_empty()),
        (&["wiring", "create_agent"], "--instance", asked.instance.is_some()),
        (&["wiring", "create_agent"], "--engage", asked.engage.is_some()),
        (&["wiring", "create_agent"], "--pattern", asked.pattern.is_some()),
        (&["wiring", "create_agent"], "--senders", asked.senders.is_some()),
        (&["wiring", "create_agent"], "--unknown", asked.unknown.is_some()),
        (&["wiring", "create_agent"], "--ignored", asked.ignored.is_some()),
        (&["wiring", "create_agent"], "--sessions", asked.sessions.is_some()),
        (&["wiring", "create_agent"], "--destination", !asked.destination.is_empty()),
        (&["wiring", "create_agent"], "--display-name", asked.display_name.is_some()),
        (&["wiring", "create_agent"], "--thread", asked.thread.is_some()),
        (&["wiring"], "--remove-destination", !asked.remove_destination.is_empty()),
        (&["packages"], "--add", !asked.add.is_empty()),
        (&["packages"], "--remove", !asked.remove.is_empty()),
        (&["mounts"], "--mount", !asked.mount.is_empty()),
        (&["mounts"], "--unmount", !asked.unmount.is_empty()),
    ];
    let mut any = false;
    for (kinds, flag, is_given) in given {
        if *is_given && !kinds.contains(&asked.kind.as_str()) {
            let kind = plain::line(&asked.kind).into_owned();
            return Err(Failure::usage(format!("{flag} is no flag of --kind {kind}; leave it out")));
        }
        any |= *is_given;
    }
    if !any {
        return Ok(None);
    }
    Ok(Some(match asked.kind.as_str() {
        "persona" => Value::object(texts(&[
            ("identity", &asked.identity),
            ("soul", &asked.soul),
            ("instructions", &asked.instructions),
        ])),
        "model" => Value::object(texts(&[("provider", &asked.provider), ("model", &asked.model)])),
        "enabled_tools" => Value::object(tools(asked)?.map(|tools| ("tools", tools))),
        "create_agent" => created(asked)?,
        "permissions" => Value::object([
            ("grant", roles("--grant", &asked.grant)?),
            ("revoke", roles("--revoke", &asked.revoke)?),
            ("add_members", words(&asked.add_member)),
            ("remove_members", words(&asked.remove_member)),
        ]),
        "packages" => Value::object([("add", words(&asked.add)), ("remove", words(&asked.remove))]),
        "mounts" => Value::object([("add", mounts(&asked.mount)), ("remove", words(&asked.unmount))]),
        _ => Value::object([
            ("add", wired(asked)?),
            ("remove", chats("--unwire", &asked.unwire, &[("instance", &asked.instance)])?),
            ("destinations", led(asked)?),
            ("remove_destinations", words(&asked.remove_destination)),
        ]),
    }))
}

fn words(all: &[String]) -> Value {
    Value::from(all.iter().map(|word| Value::from(word.as_str())).collect::<Vec<_>>())
}

/// Those that were given.
fn texts(all: &[Text<'_>]) -> Vec<(&'static str, Value)> {
    all.iter().filter_map(|(name, text)| Some((*name, Value::from(text.as_deref()?)))).collect()
}

fn tools(asked: &Submit) -> Result<Option<Value>, Failure> {
    match (asked.tool.is_empty(), asked.all_tools, asked.no_tools) {
        (true, false, false) => Ok(None),
        (false, false, false) => Ok(Some(words(&asked.tool))),
        (true, true, false) => Ok(Some(Value::from("all"))),
        (true, false, true) => Ok(Some(Value::from("none"))),
        _ => Err(Failure::usage("--tool, --all-tools and --no-tools exclude each other")),
    }
}

/// An agent that has what is said and nothing else.
fn created(asked: &Submit) -> Result<Value, Failure> {
    let mut fields = texts(&[
        ("title", &asked.title),
        ("provider", &asked.provider),
        ("model", &asked.model),
        ("identity", &asked.identity),
        ("soul", &asked.soul),
        ("instructions", &asked.instructions),
    ]);
    fields.extend(tools(asked)?.map(|tools| ("tools", tools)));
    let lists =
        [("members", words(&asked.member)), ("wirings", wired(asked)?), ("destinations", led(asked)?)];
    fields.extend(lists.into_iter().filter(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty())));
    Ok(Value::object(fields))
}

/// The chats to listen and write to, each on the terms that were given.
fn wired(asked: &Submit) -> Result<Value, Failure> {
    let terms: [Text<'_>; 6] = [
        ("engage", &asked.engage),
        ("pattern", &asked.pattern),
        ("senders", &asked.senders),
        ("unknown", &asked.unknown),
        ("ignored", &asked.ignored),
        ("sessions", &asked.sessions),
    ];
    if asked.wire.is_empty()
        && let Some((name, _)) = terms.iter().find(|(_, text)| text.is_some())
    {
        return Err(Failure::usage(format!(
            "--{name} says how a chat is wired; name it with --wire CHANNEL:CHAT"
        )));
    }
    if asked.wire.is_empty()
        && asked.unwire.is_empty()
        && asked.destination.is_empty()
        && asked.instance.is_some()
    {
        return Err(Failure::usage(
            "--instance is of a chat; name it with --wire, --unwire or --destination",
        ));
    }
    let terms: Vec<Text<'_>> = [("instance", &asked.instance)].into_iter().chain(terms).collect();
    chats("--wire", &asked.wire, &terms)
}

/// Where to send, by the agent's names for it.
fn led(asked: &Submit) -> Result<Value, Failure> {
    let more: [Text<'_>; 3] =
        [("display_name", &asked.display_name), ("instance", &asked.instance), ("thread", &asked.thread)];
    let of_one = [("--display-name", asked.display_name.is_some()), ("--thread", asked.thread.is_some())];
    if let Some((flag, _)) = of_one.iter().find(|(_, is_given)| *is_given)
        && asked.destination.len() != 1
    {
        return Err(Failure::usage(format!(
            "{flag} is of one destination; give one --destination NAME=CHANNEL:CHAT with it"
        )));
    }
    destinations(&asked.destination, &more)
}

/// `NAME=CHANNEL:CHAT`, each with the same other fields.
pub(super) fn destinations(all: &[String], more: &[Text<'_>]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let parts = text.split_once('=').and_then(|(name, at)| Some((name, at.split_once(':')?)));
        let Some((name, (channel, chat))) = parts else {
            return Err(Failure::usage(format!(
                "--destination {} is not NAME=CHANNEL:CHAT, such as ops=api:ops",
                plain::line(text)
            )));
        };
        let mut fields = vec![("name", Value::from(name))];
        if channel == AGENT {
            fields.extend([("kind", Value::from(AGENT)), ("agent_group", Value::from(chat))]);
        } else {
            fields.extend([("channel", Value::from(channel)), ("chat", Value::from(chat))]);
        }
        fields.extend(texts(more));
        found.push(Value::object(fields));
    }
    Ok(Value::from(found))
}

/// `USER:ROLE`, with `@*` after it for all agents.
fn roles(flag: &str, all: &[String]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let (rest, everywhere) = match text.strip_suffix("@*") {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        let Some((user, role)) = rest.rsplit_once(':').filter(|(user, _)| user.contains(':')) else {
            return Err(Failure::usage(format!(
                "{flag} {} is not CHANNEL:HANDLE:ROLE, such as telegram:12:approver",
                plain::line(text)
            )));
        };
        let mut fields = vec![("user", Value::from(user)), ("role", Value::from(role))];
        if everywhere {
            fields.push(("scope", Value::from("*")));
        }
        found.push(Value::object(fields));
    }
    Ok(Value::from(found))
}

/// `NAME=DIR`, a directory of the host to read, or `NAME`, one that is made for the agent.
fn mounts(all: &[String]) -> Value {
    let mount = |text: &String| match text.split_once('=') {
        Some((name, source)) => Value::object([("name", Value::from(name)), ("source", Value::from(source))]),
        None => Value::object([("name", Value::from(text.as_str()))]),
    };
    Value::from(all.iter().map(mount).collect::<Vec<_>>())
}

/// `CHANNEL:CHAT`, each with the same terms.
pub(super) fn chats(flag: &str, all: &[String], more: &[Text<'_>]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let Some((channel, chat)) = text.split_once(':') else {
            return Err(Failure::usage(format!("{flag} {} is not CHANNEL:CHAT", plain::line(text))));
        };
        let mut fields = vec![("channel", Value::from(channel)), ("chat", Value::from(chat))];
        fields.extend(texts(more));
        found.push(Value::object(fields));
    }
    Ok(Value::from(found))
}

#[cfg(test)]
mod tests {
    use argh::FromArgs;

    use super::*;

    fn made(words: &str) -> Result<String, Failure> {
        let words: Vec<&str> = words.split(' ').collect();
        let asked = Submit::from_args(&["submit"], &[&["--group", "a", "--kind"], words.as_slice()].concat());
        flags(&asked.unwrap()).map(|payload| payload.unwrap_or(Value::Null).to_string())
    }

    #[test]
    fn each_kind_has_the_words_of_its_own_command() {
        assert_eq!(
            made("wiring --wire telegram:1 --engage mention --instance x --destination ops=api:o --thread t")
                .unwrap(),
            r#"{"add":[{"channel":"telegram","chat":"1","instance":"x","engage":"mention"}],"remove":[],"destinations":[{"name":"ops","channel":"api","chat":"o","instance":"x","thread":"t"}],"remove_destinations":[]}"#
        );
        assert_eq!(
            made("create_agent --title T --no-tools --member local:b --wire api:c").unwrap(),
            r#"{"title":"T","tools":"none","members":["local:b"],"wirings":[{"channel":"api","chat":"c"}]}"#
        );
        assert_eq!(made("create_agent --all-tools").unwrap(), r#"{"tools":"all"}"#);
        assert_eq!(made("persona --soul s").unwrap(), r#"{"soul":"s"}"#);
        assert_eq!(made("model").unwrap(), "null");
    }

    #[test]
    fn a_flag_without_what_it_is_of_is_wrong() {
        for words in [
            "persona --title T",
            "model --member local:b",
            "enabled_tools --wire api:c",
            "create_agent --unwire api:c",
            "create_agent --tool x --no-tools",
            "wiring --engage all --unwire api:c",
            "wiring --instance x --remove-destination ops",
            "wiring --destination ops",
            "wiring --destination a=api:1 --destination b=api:2 --thread t",
            "wiring --display-name D --wire api:c",
        ] {
            assert_eq!(made(words).unwrap_err().code, 2, "{words}");
        }
    }

    #[test]
    fn a_mount_is_split_at_the_first_equals_sign() {
        let found = mounts(&["data=/srv/a=b".into(), "box".into()]);
        assert_eq!(found.to_string(), r#"[{"name":"data","source":"/srv/a=b"},{"name":"box"}]"#);
    }

    #[test]
    fn roles_are_split_at_the_last_colon() {
        let found =
            roles("--grant", &["matrix:@ann:example.org:approver".into(), "local:b:admin@*".into()]).unwrap();
        assert_eq!(
            found.to_string(),
            "[{\"user\":\"matrix:@ann:example.org\",\"role\":\"approver\"},\
             {\"user\":\"local:b\",\"role\":\"admin\",\"scope\":\"*\"}]"
        );
        assert_eq!(roles("--grant", &["ann:approver".into()]).unwrap_err().code, 2);
    }
}
