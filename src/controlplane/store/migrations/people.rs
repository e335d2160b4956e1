//! Steps from 10 on: people on platforms, tasks, questions, approvals, what happens.

use super::Step;

/// Never edit one of them.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "channels",
        sql: "
ALTER TABLE wirings ADD COLUMN unknown TEXT NOT NULL DEFAULT 'strict'
  CHECK (unknown IN ('strict', 'request_approval', 'public'));
UPDATE wirings SET unknown = 'public' WHERE senders = 'anyone';
ALTER TABLE inbox ADD COLUMN platform_message TEXT; -- the platform's own name of it, which an answer quotes
CREATE TABLE channel_state (
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (channel, instance, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE attention (
  wiring TEXT NOT NULL REFERENCES wirings(id) ON DELETE CASCADE,
  thread TEXT NOT NULL, -- '' is the chat itself
  until INTEGER NOT NULL,
  PRIMARY KEY (wiring, thread)
) STRICT, WITHOUT ROWID;
CREATE INDEX attention_until ON attention(until);
CREATE TABLE deliveries (
  position INTEGER PRIMARY KEY REFERENCES history(position),
  message TEXT NOT NULL UNIQUE,
  session TEXT NOT NULL REFERENCES sessions(id), -- with whose secret the text is sealed
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  quotes TEXT, -- the platform's own name of the message that is answered
  cause TEXT, -- the ledger's
  state TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'dead', 'discarded')),
  part INTEGER NOT NULL, -- how many were sent
  attempts INTEGER NOT NULL, -- of the next one
  due INTEGER NOT NULL,
  error TEXT,
  receipts TEXT NOT NULL, -- the platform's own names of the parts, one a line
  finished_at INTEGER
) STRICT;
CREATE INDEX deliveries_waiting ON deliveries(channel, instance, chat, position) WHERE state = 'waiting';
CREATE INDEX deliveries_state ON deliveries(state, position) WHERE state IN ('waiting', 'dead');
CREATE TABLE held (
  id TEXT PRIMARY KEY, -- the message that it becomes
  wiring TEXT NOT NULL REFERENCES wirings(id) ON DELETE CASCADE,
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  session TEXT NOT NULL REFERENCES sessions(id),
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  sender_id TEXT NOT NULL,
  sender_name TEXT NOT NULL,
  text BLOB NOT NULL, -- sealed
  platform_message TEXT,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX held_sender ON held(agent_group, sender_id, id);
CREATE INDEX held_wiring ON held(wiring);
CREATE INDEX held_at ON held(created_at);
CREATE TABLE pairings (
  code BLOB PRIMARY KEY, -- SHA-256
  change TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pairings_change ON pairings(change);
",
    },
    // NULL is the daemon's own. And old changes are found to be deleted.
    Step {
        name: "limits of agents, and the age of changes",
        sql: "
ALTER TABLE agent_groups ADD COLUMN turn_seconds INTEGER;
ALTER TABLE agent_groups ADD COLUMN quota_bytes INTEGER;
ALTER TABLE agent_groups ADD COLUMN quota_files INTEGER;
CREATE INDEX changes_finished ON changes(finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX calls_change ON calls(change);
",
    },
    Step {
        name: "tasks",
        sql: "
CREATE TABLE tasks (
  id TEXT PRIMARY KEY,
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  session TEXT NOT NULL REFERENCES sessions(id), -- that gets the runs, and with whose secret the prompt is sealed
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  prompt BLOB NOT NULL, -- sealed; empty once it was erased
  recurrence TEXT NOT NULL,
  zone TEXT NOT NULL,
  due INTEGER, -- NULL is never
  until INTEGER,
  count INTEGER,
  misfire TEXT NOT NULL CHECK (misfire IN ('run_once', 'skip')),
  state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'done', 'cancelled')),
  reason TEXT,
  runs INTEGER NOT NULL,
  last_run INTEGER,
  last_message TEXT,
  created_by TEXT NOT NULL, -- a user, or agent:GROUP
  created_at INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  call TEXT, -- the agent's own mark of the call that asked
  request TEXT -- digest of what it asked
) STRICT;
CREATE INDEX tasks_due ON tasks(due) WHERE state = 'active';
CREATE INDEX tasks_live ON tasks(agent_group, id) WHERE state IN ('active', 'paused');
CREATE INDEX tasks_made ON tasks(agent_group, created_by, created_at);
CREATE INDEX tasks_session ON tasks(session, id);
CREATE UNIQUE INDEX tasks_once ON tasks(session, call) WHERE call IS NOT NULL;
CREATE INDEX pairings_over ON pairings(expires_at);
",
    },
    Step {
        name: "files of messages",
        sql: "
CREATE TABLE attachments (
  message TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  session TEXT NOT NULL REFERENCES sessions(id), -- with whose secret it is sealed
  content TEXT NOT NULL UNIQUE, -- under what its pieces are kept
  name BLOB NOT NULL, -- sealed
  source BLOB NOT NULL, -- sealed: by which the platform gives it
  mime TEXT NOT NULL, -- as its content says; '' until it is here
  size INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('staged', 'wanted', 'here', 'missing')),
  reason TEXT NOT NULL, -- why it is missing
  attempts INTEGER NOT NULL,
  due INTEGER NOT NULL,
  PRIMARY KEY (message, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX attachments_session ON attachments(session);
CREATE INDEX attachments_wanted ON attachments(due) WHERE state = 'wanted';
CREATE TABLE attachment_chunks (
  content TEXT NOT NULL,
  chunk INTEGER NOT NULL,
  bytes BLOB NOT NULL, -- 256 KiB at most, sealed
  PRIMARY KEY (content, chunk)
) STRICT;
ALTER TABLE inbox ADD COLUMN wanted INTEGER NOT NULL DEFAULT 0; -- files that it waits for
",
    },
    Step {
        name: "how long deliveries take",
        sql: "
ALTER TABLE deliveries ADD COLUMN parts INTEGER; -- how many there are, once the first one was sent
ALTER TABLE deliveries ADD COLUMN failing_since INTEGER; -- of the next part
",
    },
    Step {
        name: "who was asked for",
        sql: "
ALTER TABLE held ADD COLUMN asked INTEGER NOT NULL DEFAULT 0; -- 1 once its sender was told that somebody decides
CREATE INDEX held_unasked ON held(id) WHERE asked = 0;
",
    },
    Step {
        name: "former names of chats",
        sql: "ALTER TABLE inbox ADD COLUMN former_chat TEXT; -- under which its agent may know the chat still
",
    },
    Step {
        name: "questions",
        sql: "
CREATE TABLE questions (
  id TEXT PRIMARY KEY,
  session TEXT NOT NULL REFERENCES sessions(id), -- that asks and hears the answer, and with whose secret it is sealed
  message TEXT NOT NULL UNIQUE, -- that shows it
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  content BLOB NOT NULL, -- sealed; empty once it was erased
  state TEXT NOT NULL CHECK (state IN ('open', 'answered', 'expired', 'cancelled')),
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  ended_at INTEGER,
  ended_by TEXT, -- a user
  answer TEXT, -- the message that told the agent
  has_buttons INTEGER NOT NULL, -- there are still buttons under its message
  call TEXT NOT NULL, -- the agent's own mark of the call that asked
  request TEXT NOT NULL, -- digest of what it asked
  UNIQUE (session, call)
) STRICT;
CREATE INDEX questions_due ON questions(expires_at) WHERE state = 'open';
CREATE INDEX questions_open ON questions(channel, instance, chat) WHERE state = 'open';
CREATE INDEX questions_stale ON questions(id) WHERE has_buttons = 1 AND state <> 'open';
CREATE INDEX questions_over ON questions(ended_at) WHERE state <> 'open';
",
    },
    Step {
        name: "approvals in chats",
        sql: "
CREATE TABLE approval_chats (
  user TEXT PRIMARY KEY,
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  failure TEXT, -- why the last card could not be shown there
  since INTEGER NOT NULL
) STRICT;
CREATE TABLE approval_cards (
  number INTEGER PRIMARY KEY,
  change TEXT NOT NULL,
  user TEXT NOT NULL,
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  message TEXT NOT NULL, -- under which the platform is to know it
  shown TEXT NOT NULL, -- what it shows; empty before it was sent
  edits INTEGER NOT NULL,
  receipt TEXT, -- the platform's own name of it
  is_over INTEGER NOT NULL, -- nothing of it will be shown as something else
  UNIQUE (change, user)
) STRICT;
CREATE INDEX approval_cards_open ON approval_cards(user, number) WHERE is_over = 0;
",
    },
    Step {
        name: "happenings",
        sql: "
CREATE TABLE happenings (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('delivery', 'question')),
  object TEXT NOT NULL, -- the message that is brought, or the question
  agent_group TEXT NOT NULL,
  session TEXT NOT NULL,
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  what TEXT NOT NULL,
  detail TEXT, -- why a delivery was given up, or who ended a question
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX happenings_at ON happenings(at);
CREATE TRIGGER deliveries_begun AFTER INSERT ON deliveries BEGIN
  INSERT INTO happenings (kind, object, agent_group, session, channel, instance, chat, thread, what, detail, at)
  VALUES ('delivery', new.message, (SELECT agent_group FROM sessions WHERE id = new.session), new.session,
    new.channel, new.instance, new.chat, new.thread, 'accepted', NULL, new.due);
END;
CREATE TRIGGER deliveries_moved AFTER UPDATE OF state ON deliveries WHEN old.state <> new.state BEGIN
  INSERT INTO happenings (kind, object, agent_group, session, channel, instance, chat, thread, what, detail, at)
  VALUES ('delivery', new.message, (SELECT agent_group FROM sessions WHERE id = new.session), new.session,
    new.channel, new.instance, new.chat, new.thread,
    CASE new.state WHEN 'sent' THEN 'delivered' WHEN 'waiting' THEN 'retried' ELSE new.state END,
    iif(new.state = 'dead', new.error, NULL), coalesce(new.finished_at, new.due));
END;
CREATE TRIGGER questions_begun AFTER INSERT ON questions BEGIN
  INSERT INTO happenings (kind, object, agent_group, session, channel, instance, chat, thread, what, detail, at)
  VALUES ('question', new.id, (SELECT agent_group FROM sessions WHERE id = new.session), new.session,
    new.channel, new.instance, new.chat, new.thread, 'asked', NULL, new.created_at);
END;
CREATE TRIGGER questions_moved AFTER UPDATE OF state ON questions WHEN old.state <> new.state BEGIN
  INSERT INTO happenings (kind, object, agent_group, session, channel, instance, chat, thread, what, detail, at)
  VALUES ('question', new.id, (SELECT agent_group FROM sessions WHERE id = new.session), new.session,
    new.channel, new.instance, new.chat, new.thread, new.state, new.ended_by,
    coalesce(new.ended_at, new.created_at));
END;
",
    },
    Step {
        name: "ends of conversations",
        sql: "
ALTER TABLE sessions ADD COLUMN expiry_from INTEGER; -- from then on its expiry counts; NULL: there is nothing to erase
ALTER TABLE sessions ADD COLUMN empty_from INTEGER; -- from then on its row is kept in vain; NULL: there is something
UPDATE sessions SET expiry_from = max(last_active, created_at) WHERE id IN (SELECT session FROM session_secrets);
UPDATE sessions SET empty_from = unixepoch() * 1000 WHERE expiry_from IS NULL;
CREATE INDEX sessions_expiring ON sessions(expiry_from) WHERE expiry_from IS NOT NULL;
CREATE INDEX sessions_empty ON sessions(empty_from) WHERE empty_from IS NOT NULL;
",
    },
    Step {
        name: "use of models",
        sql: "
ALTER TABLE agent_groups ADD COLUMN tokens_a_day INTEGER; -- NULL: as many as it likes
CREATE TABLE model_usage (
  day INTEGER NOT NULL, -- since 1970-01-01, UTC
  agent_group TEXT NOT NULL, -- its name, also when it was deleted
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  calls INTEGER NOT NULL,
  estimated INTEGER NOT NULL, -- calls of which the provider did not say the tokens
  input INTEGER NOT NULL,
  cached INTEGER NOT NULL, -- of the input
  output INTEGER NOT NULL,
  PRIMARY KEY (day, agent_group, provider, model)
) STRICT, WITHOUT ROWID;
",
    },
];
