//! Steps 1 to 9: conversations, and what agents are and may do.

use super::Step;

/// Never edit one of them.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "conversations",
        sql: "
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
) STRICT;
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
  last_active INTEGER NOT NULL,
  UNIQUE (agent_group, channel, instance, chat, thread)
) STRICT;
CREATE INDEX sessions_owed ON sessions(id) WHERE open_engaging > 0 AND parked IS NULL;
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
) STRICT;
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
",
    },
    // Every message entered it and left it again; who is owed is found through `inbox_open`.
    Step { name: "no index of owed sessions", sql: "DROP INDEX sessions_owed;" },
    Step {
        name: "capabilities",
        sql: "
ALTER TABLE agent_groups ADD COLUMN identity TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_groups ADD COLUMN soul TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_groups ADD COLUMN instructions TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_groups ADD COLUMN deleted_at INTEGER;
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
  created_at INTEGER NOT NULL,
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
",
    },
    Step {
        name: "what agents ask",
        sql: "
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
",
    },
    Step {
        name: "grants of packages and mounts",
        sql: "
CREATE TABLE grants (
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  kind TEXT NOT NULL CHECK (kind IN ('package', 'mount')),
  name TEXT NOT NULL,
  source TEXT, -- a package's version, a mount's directory; NULL is one that the daemon makes
  digest TEXT, -- of a package's tree
  device INTEGER, -- of a mount's directory
  inode INTEGER,
  since INTEGER NOT NULL,
  PRIMARY KEY (agent_group, kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX changes_unfinished ON changes(id) WHERE state = 'approved';
",
    },
    Step {
        name: "how much askers have pending",
        sql: "
CREATE TABLE askers (
  name TEXT PRIMARY KEY, -- as in changes.requested_by
  pending INTEGER NOT NULL -- kept by the three triggers below
) STRICT, WITHOUT ROWID;
INSERT INTO askers SELECT requested_by, count(*) FROM changes WHERE state = 'pending' GROUP BY requested_by;
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
",
    },
    // A change that is approved and not done had its packages granted already; it grants them when it is done.
    Step {
        name: "grants are recorded",
        sql: "
ALTER TABLE grants ADD COLUMN record INTEGER NOT NULL DEFAULT 0;
ALTER TABLE grants ADD COLUMN born INTEGER;
DELETE FROM grants WHERE kind = 'package' AND EXISTS (
  SELECT 1 FROM changes, json_each(changes.effects) AS step
  WHERE changes.state = 'approved' AND changes.agent_group = grants.agent_group
    AND json_extract(step.value, '$.effect') = 'set_package'
    AND json_extract(step.value, '$.name') = grants.name
    AND json_extract(step.value, '$.package.digest') = grants.digest
);
",
    },
    Step {
        name: "destinations",
        sql: "
CREATE TABLE destinations (
  agent_group TEXT NOT NULL REFERENCES agent_groups(name),
  name TEXT NOT NULL, -- the agent's word for it
  display_name TEXT NOT NULL,
  messaging_group TEXT NOT NULL REFERENCES messaging_groups(id),
  thread TEXT,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (agent_group, name)
) STRICT, WITHOUT ROWID;
",
    },
    Step {
        name: "agents are recorded",
        sql: "
ALTER TABLE agent_groups ADD COLUMN record INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agent_groups ADD COLUMN reach_record INTEGER NOT NULL DEFAULT 0;
",
    },
];
