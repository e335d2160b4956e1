CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE agent_groups (
  name TEXT PRIMARY KEY,
  title TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  tools TEXT NOT NULL,
  host_id INTEGER UNIQUE,
  created_at INTEGER NOT NULL,
  revision INTEGER NOT NULL
, identity TEXT NOT NULL DEFAULT '', soul TEXT NOT NULL DEFAULT '', instructions TEXT NOT NULL DEFAULT '', deleted_at INTEGER, record INTEGER NOT NULL DEFAULT 0, reach_record INTEGER NOT NULL DEFAULT 0, turn_seconds INTEGER, quota_bytes INTEGER, quota_files INTEGER, tokens_a_day INTEGER) STRICT;
CREATE TABLE sessions (
  id TEXT PRIMARY KEY,
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT NOT NULL, -- '' is none: NULLs would not be unique
  epoch INTEGER NOT NULL,
  out_cursor INTEGER NOT NULL,
  in_seq INTEGER NOT NULL,
  parked TEXT, -- the reason
  launch_deaths INTEGER NOT NULL,
  wait_reason TEXT,
  open_messages INTEGER NOT NULL,
  open_engaging INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  last_active INTEGER NOT NULL, expiry_from INTEGER, empty_from INTEGER,
  UNIQUE (agent_group, channel, instance, chat, thread)
) STRICT;
CREATE TABLE session_secrets (
  session TEXT PRIMARY KEY REFERENCES sessions(id),
  sealed BLOB NOT NULL,
  since INTEGER NOT NULL -- texts up to this position were sealed with an erased secret
) STRICT;
CREATE TABLE history (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  session TEXT NOT NULL REFERENCES sessions(id),
  kind TEXT NOT NULL CHECK (kind IN ('in', 'out', 'notice', 'done', 'failed')),
  message TEXT NOT NULL,
  in_reply_to TEXT,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX history_session ON history(session, position);
CREATE INDEX history_at ON history(at);
CREATE TABLE inbox (
  position INTEGER PRIMARY KEY REFERENCES history(position),
  id TEXT NOT NULL UNIQUE,
  session TEXT NOT NULL REFERENCES sessions(id),
  seq INTEGER, -- of the last conveyor it was handed to
  kind TEXT NOT NULL,
  engage INTEGER NOT NULL,
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  sender_id TEXT NOT NULL,
  sender_name TEXT NOT NULL,
  text BLOB NOT NULL, -- sealed
  source_session TEXT,
  hop INTEGER NOT NULL,
  in_reply_to TEXT,
  state TEXT NOT NULL CHECK (state IN ('open', 'done', 'failed')),
  reason TEXT,
  began INTEGER NOT NULL,
  deaths INTEGER NOT NULL,
  created_at INTEGER NOT NULL
, platform_message TEXT, wanted INTEGER NOT NULL DEFAULT 0, former_chat TEXT) STRICT;
CREATE INDEX inbox_open ON inbox(session, position) WHERE state = 'open';
CREATE TABLE events (
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  event_id TEXT NOT NULL,
  message TEXT NOT NULL,
  session TEXT NOT NULL,
  position INTEGER NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (channel, instance, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX events_at ON events(at);
CREATE TABLE outbox (
  position INTEGER PRIMARY KEY REFERENCES history(position),
  id TEXT NOT NULL UNIQUE,
  session TEXT NOT NULL REFERENCES sessions(id),
  epoch INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,
  in_reply_to TEXT,
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  text BLOB NOT NULL, -- sealed
  created_at INTEGER NOT NULL,
  UNIQUE (session, epoch, seq, ordinal)
) STRICT;
CREATE TABLE notices (
  position INTEGER PRIMARY KEY REFERENCES history(position),
  id TEXT NOT NULL UNIQUE,
  session TEXT NOT NULL REFERENCES sessions(id),
  text BLOB NOT NULL -- sealed
) STRICT;
CREATE TABLE revisions (
  object TEXT PRIMARY KEY,
  revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE users (
  id TEXT PRIMARY KEY, -- channel:handle
  name TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE roles (
  user TEXT NOT NULL REFERENCES users(id),
  role TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'approver')),
  scope TEXT NOT NULL, -- an agent group; '' is all
  since INTEGER NOT NULL,
  PRIMARY KEY (user, role, scope)
) STRICT, WITHOUT ROWID;
CREATE TABLE members (
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  user TEXT NOT NULL REFERENCES users(id),
  since INTEGER NOT NULL,
  PRIMARY KEY (agent_group, user)
) STRICT, WITHOUT ROWID;
CREATE TABLE messaging_groups (
  id TEXT PRIMARY KEY,
  channel TEXT NOT NULL,
  instance TEXT NOT NULL,
  chat TEXT NOT NULL,
  title TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  UNIQUE (channel, instance, chat)
) STRICT, WITHOUT ROWID;
CREATE TABLE wirings (
  id TEXT PRIMARY KEY,
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  messaging_group TEXT NOT NULL REFERENCES messaging_groups(id),
  engage TEXT NOT NULL CHECK (engage IN ('all', 'mention', 'mention-sticky', 'pattern')),
  pattern TEXT, -- with the engage mode 'pattern'
  senders TEXT NOT NULL CHECK (senders IN ('anyone', 'members')),
  ignored TEXT NOT NULL CHECK (ignored IN ('drop', 'accumulate')),
  sessions TEXT NOT NULL CHECK (sessions IN ('shared', 'per-thread', 'agent-shared')),
  created_at INTEGER NOT NULL, unknown TEXT NOT NULL DEFAULT 'strict'
  CHECK (unknown IN ('strict', 'request_approval', 'public')),
  UNIQUE (agent_group, messaging_group)
) STRICT, WITHOUT ROWID;
CREATE TABLE changes (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  agent_group TEXT NOT NULL, -- of create_agent the one that it makes
  state TEXT NOT NULL CHECK (state IN ('pending', 'rejected', 'withdrawn', 'expired', 'approved', 'applied')),
  requested_by TEXT NOT NULL, -- a user, or agent:GROUP
  via TEXT NOT NULL, -- the token or the session that it came by
  label TEXT NOT NULL, -- what the client calls the one who asks
  reason TEXT NOT NULL,
  payload TEXT NOT NULL,
  effects TEXT NOT NULL,
  diff TEXT NOT NULL,
  base TEXT NOT NULL,
  digest TEXT NOT NULL,
  idempotency_key TEXT,
  request TEXT NOT NULL, -- digest of what was asked, as it was asked
  submitted_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  decided_by TEXT,
  decided_via TEXT,
  decided_at INTEGER,
  note TEXT NOT NULL,
  failure TEXT,
  finished_at INTEGER
) STRICT;
CREATE INDEX changes_group ON changes(agent_group, id);
CREATE INDEX changes_waiting ON changes(id) WHERE state = 'pending';
CREATE INDEX changes_pending ON changes(agent_group, id) WHERE state = 'pending';
CREATE INDEX changes_asked ON changes(requested_by) WHERE state = 'pending';
CREATE INDEX changes_expiring ON changes(expires_at) WHERE state = 'pending';
CREATE UNIQUE INDEX changes_once ON changes(via, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX members_user ON members(user);
CREATE TABLE tokens (
  name TEXT PRIMARY KEY,
  user TEXT NOT NULL REFERENCES users(id),
  scopes TEXT NOT NULL,
  digest BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_user ON tokens(user);
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  previous BLOB NOT NULL,
  hash BLOB NOT NULL,
  line TEXT NOT NULL
) STRICT;
CREATE TABLE calls (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  session TEXT NOT NULL REFERENCES sessions(id),
  call TEXT NOT NULL, -- the asker's own mark
  request TEXT NOT NULL, -- digest of what was asked
  change TEXT NOT NULL, -- what came of it
  UNIQUE (session, call)
) STRICT;
CREATE INDEX calls_session ON calls(session, id);
CREATE INDEX changes_asked_at ON changes(requested_by, submitted_at);
CREATE TABLE grants (
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  kind TEXT NOT NULL CHECK (kind IN ('package', 'mount')),
  name TEXT NOT NULL,
  source TEXT, -- a package's version, a mount's directory; NULL is one that the daemon makes
  digest TEXT, -- of a package's tree
  device INTEGER, -- of a mount's directory
  inode INTEGER,
  since INTEGER NOT NULL, record INTEGER NOT NULL DEFAULT 0, born INTEGER,
  PRIMARY KEY (agent_group, kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX changes_unfinished ON changes(id) WHERE state = 'approved';
CREATE TABLE askers (
  name TEXT PRIMARY KEY, -- as in changes.requested_by
  pending INTEGER NOT NULL -- kept by the three triggers below
) STRICT, WITHOUT ROWID;
CREATE TRIGGER changes_asked_more AFTER INSERT ON changes WHEN new.state = 'pending' BEGIN
  INSERT INTO askers VALUES (new.requested_by, 1) ON CONFLICT (name) DO UPDATE SET pending = pending + 1;
END;
CREATE TRIGGER changes_asked_less AFTER UPDATE OF state ON changes
WHEN old.state = 'pending' AND new.state <> 'pending' BEGIN
  UPDATE askers SET pending = pending - 1 WHERE name = old.requested_by;
  DELETE FROM askers WHERE name = old.requested_by AND pending <= 0;
END;
CREATE TRIGGER changes_asked_never AFTER DELETE ON changes WHEN old.state = 'pending' BEGIN
  UPDATE askers SET pending = pending - 1 WHERE name = old.requested_by;
  DELETE FROM askers WHERE name = old.requested_by AND pending <= 0;
END;
CREATE TABLE destinations (
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  name TEXT NOT NULL, -- the agent's word for it
  display_name TEXT NOT NULL,
  messaging_group TEXT NOT NULL REFERENCES messaging_groups(id),
  thread TEXT,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (agent_group, name)
) STRICT, WITHOUT ROWID;
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
, parts INTEGER, failing_since INTEGER) STRICT;
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
, asked INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE INDEX held_sender ON held(agent_group, sender_id, id);
CREATE INDEX held_wiring ON held(wiring);
CREATE INDEX held_at ON held(created_at);
CREATE TABLE pairings (
  code BLOB PRIMARY KEY, -- SHA-256
  change TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pairings_change ON pairings(change);
CREATE INDEX changes_finished ON changes(finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX calls_change ON calls(change);
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
CREATE INDEX held_unasked ON held(id) WHERE asked = 0;
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
CREATE INDEX sessions_expiring ON sessions(expiry_from) WHERE expiry_from IS NOT NULL;
CREATE INDEX sessions_empty ON sessions(empty_from) WHERE empty_from IS NOT NULL;
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
