CREATE TABLE messages_in (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL,
  kind TEXT NOT NULL,
  engage INTEGER NOT NULL,
  sender_id TEXT NOT NULL,
  sender_name TEXT NOT NULL,
  channel TEXT NOT NULL,
  chat TEXT NOT NULL,
  thread TEXT,
  text TEXT NOT NULL,
  source_session TEXT,
  hop INTEGER NOT NULL,
  in_reply_to TEXT,
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE attachments_in (
  seq INTEGER PRIMARY KEY,
  message TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  chunk INTEGER NOT NULL,
  name TEXT NOT NULL,
  mime TEXT NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
CREATE TABLE destinations (
  seq INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  display_name TEXT NOT NULL,
  channel TEXT,
  chat TEXT,
  agent_group TEXT
) STRICT;
CREATE TABLE session_config (
  seq INTEGER PRIMARY KEY,
  body TEXT NOT NULL
) STRICT;
