//! A question of an agent to the people where it is asked: kept and shown in one transaction, and answered later, by a
//! message that starts another turn. Touches the ledger.

use rusqlite::Transaction;

use super::{Asker, Done, Entry, Granted, known, refusal};
use crate::contract::action::Action;
use crate::contract::catalogue::ASK_USER_QUESTION;
use crate::contract::chain;
use crate::contract::ids::QuestionId;
use crate::contract::json::{Value, canonical};
use crate::contract::time::Millis;
use crate::controlplane::doors;
use crate::controlplane::questions::{Asked, MOST_OPEN};
use crate::controlplane::session::peers;
use crate::controlplane::store::outbox::{self, Output};
use crate::controlplane::store::questions::{self, NewQuestion, Question};
use crate::controlplane::store::{StoreError, destinations, inbox};

/// Asks people.
pub(super) const ASK: Entry = Entry { action: ASK_USER_QUESTION, tool: ASK_USER_QUESTION, run: ask };

fn done(question: &QuestionId, expires_at: Millis, is_repeat: bool) -> Done {
    let result = Value::object([
        ("question", Value::from(question.as_str())),
        ("expires_at", Value::from(expires_at.to_rfc3339())),
    ]);
    Ok(Granted { result, decided: None, is_repeat, spoke: !is_repeat })
}

/// `{"question", "options", "allow_freeform", "expires_minutes"}`
fn ask(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    let request = chain::hex(&chain::hash(&canonical(&action.arguments).to_string()));
    // A call that comes again has asked already, also when that is over by now.
    if let Some((Question { id, expires_at, .. }, asked)) =
        questions::of_call(tx, asker.session, &action.call)?
    {
        return Ok(match asked == request {
            true => done(&id, expires_at, true),
            false => {
                Err(refusal("call_reused", format!("this call was made before, for something else: {id}")))
            }
        });
    }
    let fields = ["question", "options", "allow_freeform", "expires_minutes"];
    let read = known(action, &fields)
        .and_then(|()| Asked::read(&action.arguments).map_err(|wrong| refusal("refused", wrong)));
    let (asked, lasts) = match read {
        Ok(read) => read,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let cause = match asker.cause {
        Some(cause) => inbox::find(tx, asker.session, cause)?,
        None => None,
    };
    let Some(place) = cause.filter(|cause| cause.state == inbox::State::Open).map(|cause| cause.place) else {
        return Ok(Err(refusal("no_chat", "nobody knows which chat this is for; nothing was asked")));
    };
    if peers::is_from_agent(&place) {
        let text = "an agent asked this, and no person reads it; answer the agent";
        return Ok(Err(refusal("no_person", text)));
    }
    if doors::is_platform(&place.channel) && !destinations::reach(tx, &asker.group, &place)? {
        let text = "the agent was taken away from that chat; nothing was asked";
        return Ok(Err(refusal("not_wired", text)));
    }
    if questions::open_of(tx, asker.session)? >= MOST_OPEN {
        let text =
            format!("{MOST_OPEN} questions of this conversation are open, as many as may; wait for answers");
        return Ok(Err(refusal("too_many_open", text)));
    }
    let (epoch, seq) = asker.number;
    let shown = outbox::store(
        tx,
        &asker.desk.keyring,
        &Output {
            session: asker.session.clone(),
            epoch,
            seq,
            ordinal: 0,
            in_reply_to: asker.cause.cloned(),
            place: place.clone(),
            shown_in: asker.session.clone(),
            text: asked.text(),
        },
    )?;
    let new = NewQuestion {
        id: QuestionId::mint(),
        session: asker.session.clone(),
        message: shown.message,
        place,
        content: asked.kept(),
        expires_at: Millis(Millis::now().0.saturating_add(lasts)),
        call: action.call.clone(),
        request,
    };
    questions::add(tx, &asker.desk.keyring, &new)?;
    Ok(done(&new.id, new.expires_at, false))
}
