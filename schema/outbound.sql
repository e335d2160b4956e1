CREATE TABLE messages_out (
  seq INTEGER PRIMARY KEY,
  in_reply_to TEXT,
  kind TEXT NOT NULL,
  channel TEXT,
  chat TEXT,
  thread TEXT,
  text TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE attachments_out (
  seq INTEGER PRIMARY KEY,
  message_seq INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,
  chunk INTEGER NOT NULL,
  name TEXT NOT NULL,
  mime TEXT NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
CREATE TABLE processing (
  seq INTEGER PRIMARY KEY,
  message TEXT NOT NULL,
  state TEXT NOT NULL
) STRICT;
