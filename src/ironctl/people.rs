//! `ctl whoami`, `user`, `role` and `member`: who there is and what they may. Who exists is operated at once; roles and
//! memberships are what somebody can do, so giving and taking them asks for a change. Touches the network and the
//! terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::agent;
use super::client::{Client, encode};
use super::lists::{Output, all, cell, print};
use super::shown::out;
use super::submit::{Manner, Then};
use crate::contract::json::Value;
use crate::contract::plain;

/// Who you are to the control plane, and what you may.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "whoami")]
pub(super) struct Whoami {
    /// print JSON
    #[argh(switch)]
    pub(super) json: bool,
}

/// Who there is.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "user")]
pub(super) struct User {
    #[argh(subcommand)]
    verb: UserVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum UserVerb {
    List(UserList),
    Add(UserAdd),
    Notify(UserNotify),
    Delete(UserDelete),
}

/// All users.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct UserList {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Add a user, or call one something else.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "add")]
struct UserAdd {
    /// CHANNEL:HANDLE, such as local:ann or telegram:12345
    #[argh(positional)]
    id: String,
    /// what people call them
    #[argh(option, default = "String::new()")]
    name: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Show a user in a chat what waits for their decision, with buttons to decide. It gives them no right.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "notify")]
struct UserNotify {
    /// CHANNEL:HANDLE, as `user list` has it
    #[argh(positional)]
    id: String,
    /// the account by which they are written to; the one without a name unless given
    #[argh(option)]
    instance: Option<String>,
    /// the chat, where it is not called as they are: on a webhook, what the receiver calls it
    #[argh(option)]
    chat: Option<String>,
    /// show them nothing more
    #[argh(switch)]
    off: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Delete a user. Their roles, memberships and tokens have to be taken away first.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "delete")]
struct UserDelete {
    /// CHANNEL:HANDLE, as `user list` has it
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What users may decide and operate.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "role")]
pub(super) struct Role {
    #[argh(subcommand)]
    verb: RoleVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum RoleVerb {
    List(RoleList),
    Grant(RoleGrant),
    Revoke(RoleRevoke),
}

/// All roles that are held.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct RoleList {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that a user be given a role. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "grant")]
struct RoleGrant {
    /// CHANNEL:HANDLE
    #[argh(positional)]
    user: String,
    /// approver, admin or owner
    #[argh(positional)]
    role: String,
    /// the agent; for an owner, and with --everywhere, one need not be named
    #[argh(option)]
    group: Option<String>,
    /// for every agent; an owner always is
    #[argh(switch)]
    everywhere: bool,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that a role be taken away. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "revoke")]
struct RoleRevoke {
    /// CHANNEL:HANDLE
    #[argh(positional)]
    user: String,
    /// approver, admin or owner
    #[argh(positional)]
    role: String,
    /// the agent; for an owner, and with --everywhere, one need not be named
    #[argh(option)]
    group: Option<String>,
    /// the role that was given for every agent; an owner's always is
    #[argh(switch)]
    everywhere: bool,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Who may talk to an agent.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "member")]
pub(super) struct Member {
    #[argh(subcommand)]
    verb: MemberVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum MemberVerb {
    List(MemberList),
    Add(MemberAdd),
    Remove(MemberRemove),
}

/// The members of an agent.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct MemberList {
    /// the agent
    #[argh(positional)]
    agent: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that a user may talk to an agent. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "add")]
struct MemberAdd {
    /// CHANNEL:HANDLE
    #[argh(positional)]
    user: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that a user may not talk to an agent any more. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "remove")]
struct MemberRemove {
    /// CHANNEL:HANDLE
    #[argh(positional)]
    user: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl whoami`
pub(super) fn whoami(client: &Client, words: &Whoami) -> Result<(), Failure> {
    let me = client.get("/v1/whoami")?;
    if words.json {
        return out(&me);
    }
    let roles = roles_in_words(&me);
    let mut out = io::stdout().lock();
    for (name, value) in [
        ("user", cell(&me, "user")),
        ("token", cell(&me, "token")),
        ("scopes", cell(&me, "scopes")),
        ("roles", roles.join(", ")),
    ] {
        let value = if value.is_empty() { "-" } else { &value };
        writeln!(out, "{name:<10} {}", plain::line(value))?;
    }
    Ok(())
}

/// The roles of somebody, as `whoami` has them.
pub(super) fn roles_in_words(me: &Value) -> Vec<String> {
    let roles = me.get("roles").and_then(Value::as_array).unwrap_or_default();
    let words = roles.iter().map(|role| match cell(role, "scope").as_str() {
        "*" => format!("{} of everything", cell(role, "role")),
        scope => format!("{} of {scope}", cell(role, "role")),
    });
    words.collect()
}

/// `ctl user`
pub(super) fn users(client: &Client, words: User) -> Result<(), Failure> {
    match words.verb {
        UserVerb::List(UserList { json }) => {
            let rows = all(client, "/v1/users", "users")?;
            let rows: Vec<Value> = if json { rows } else { rows.into_iter().map(with_place).collect() };
            let columns =
                [("USER", "id"), ("NAME", "name"), ("APPROVALS IN", "place"), ("SINCE", "created_at")];
            print(&rows, Output::of(json), &columns, "no users")
        }
        UserVerb::Add(UserAdd { id, name, json }) => {
            let body = Value::object([("id", Value::from(id)), ("name", Value::from(name))]);
            let (status, answer) = client.post_any("/v1/users", &body)?;
            let user = client.judged((status, answer))?;
            if json {
                return out(&user);
            }
            let id = cell(&user, "id");
            let id = plain::line(&id);
            if status == 201 {
                writeln!(
                    io::stdout(),
                    "{id} is added; `ironctl member add {id} --group AGENT` lets them talk to an agent"
                )?;
            } else {
                let name = cell(&user, "name");
                writeln!(io::stdout(), "{id} was there, and is called {:?} now", plain::line(&name))?;
            }
            Ok(())
        }
        UserVerb::Notify(asked) => notify(client, asked),
        UserVerb::Delete(UserDelete { id, json }) => {
            let answer = client.delete(&format!("/v1/users/{}", encode(&id)))?;
            if json {
                return out(&answer);
            }
            writeln!(io::stdout(), "{} is deleted", plain::line(&id))?;
            Ok(())
        }
    }
}

/// A user, with the place where they are shown what waits, in words.
fn with_place(user: Value) -> Value {
    let shown = user.get("approvals").filter(|shown| **shown != Value::Null);
    let words = shown.map_or_else(String::new, |shown| {
        let problem =
            if shown.get("problem").is_some_and(|problem| *problem != Value::Null) { " (!)" } else { "" };
        format!("{}{problem}", place_of(shown))
    });
    let mut fields = vec![("place", Value::from(words))];
    for name in ["id", "name", "created_at"] {
        fields.push((name, user.get(name).cloned().unwrap_or(Value::Null)));
    }
    Value::object(fields)
}

/// `CHANNEL/INSTANCE CHAT`.
fn place_of(shown: &Value) -> String {
    let (channel, instance, chat) = (cell(shown, "channel"), cell(shown, "instance"), cell(shown, "chat"));
    if instance.is_empty() { format!("{channel} {chat}") } else { format!("{channel}/{instance} {chat}") }
}

fn notify(client: &Client, asked: UserNotify) -> Result<(), Failure> {
    let path = format!("/v1/users/{}/approvals", encode(&asked.id));
    if asked.off {
        if asked.instance.is_some() || asked.chat.is_some() {
            return Err(Failure::usage("--off ends it wherever it is; leave --instance and --chat out"));
        }
        let answer = client.delete(&path)?;
        if asked.json {
            return out(&answer);
        }
        let was = answer.get("was_shown").and_then(Value::as_bool).unwrap_or(false);
        let words = if was { "is shown nothing any more" } else { "was shown nothing" };
        writeln!(io::stdout(), "{} {words}", plain::line(&asked.id))?;
        return Ok(());
    }
    let body = Value::object([("instance", Value::from(asked.instance)), ("chat", Value::from(asked.chat))]);
    let shown = client.post(&path, &body)?;
    if asked.json {
        return out(&shown);
    }
    let id = plain::line(&asked.id);
    writeln!(
        io::stdout(),
        "{id} is shown what waits for their decision in {}; `ironctl role grant {id} approver --group AGENT` lets them \
         decide, and `ironctl user list` says whether showing it fails",
        plain::line(&place_of(&shown))
    )?;
    Ok(())
}

/// `ctl role`
pub(super) fn roles(client: &Client, words: Role) -> Result<(), Failure> {
    let role = |user: String, role: String, everywhere: bool| {
        let mut fields = vec![("user", Value::from(user)), ("role", Value::from(role))];
        if everywhere {
            fields.push(("scope", Value::from("*")));
        }
        Value::object(fields)
    };
    match words.verb {
        RoleVerb::List(RoleList { json }) => {
            let rows = all(client, "/v1/roles", "roles")?;
            let columns = [("USER", "user"), ("ROLE", "role"), ("OF", "scope"), ("SINCE", "since")];
            print(&rows, Output::of(json), &columns, "nobody holds a role")
        }
        RoleVerb::Grant(asked) => {
            let group = home(client, asked.group, &asked.role, asked.everywhere)?;
            let one = role(asked.user, asked.role, asked.everywhere);
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "permissions", &group, "grant", one)
        }
        RoleVerb::Revoke(asked) => {
            let group = home(client, asked.group, &asked.role, asked.everywhere)?;
            let one = role(asked.user, asked.role, asked.everywhere);
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "permissions", &group, "revoke", one)
        }
    }
}

/// `ctl member`
pub(super) fn members(client: &Client, words: Member) -> Result<(), Failure> {
    match words.verb {
        MemberVerb::List(MemberList { agent, json }) => {
            let rows = all(client, &format!("{}/members", agent::path(&agent)), "members")?;
            let columns = [("USER", "user"), ("SINCE", "since")];
            print(
                &rows,
                Output::of(json),
                &columns,
                "no members; admins and the owner may talk to it all the same",
            )
        }
        MemberVerb::Add(asked) => {
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "permissions", &asked.group, "add_members", Value::from(asked.user))
        }
        MemberVerb::Remove(asked) => {
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "permissions", &asked.group, "remove_members", Value::from(asked.user))
        }
    }
}

/// The agent that a change of a role belongs to: the one that is named, and for a role over all of them the first.
fn home(client: &Client, group: Option<String>, role: &str, everywhere: bool) -> Result<String, Failure> {
    if let Some(group) = group {
        return Ok(group);
    }
    if !everywhere && role != "owner" {
        return Err(Failure::usage(
            "--group is missing: the agent that the role is for, or --everywhere for all",
        ));
    }
    let page = client.get("/v1/agents?limit=1")?;
    let first = page.get("agents").and_then(Value::as_array).and_then(<[Value]>::first);
    let name = first.map(|agent| cell(agent, "name")).ok_or_else(|| {
        Failure::of(
            "a change belongs to an agent, and there is none yet; make one with `ironctl agent create`",
        )
    })?;
    Ok(name)
}
