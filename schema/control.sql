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
