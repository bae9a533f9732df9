-- Who acts for a party. A user of a closed party is erased: its row stays without name and address.
CREATE TABLE user (
  user_no INTEGER PRIMARY KEY,
  user_id BLOB NOT NULL UNIQUE CHECK (length(user_id) = 16),
  party_no INTEGER NOT NULL REFERENCES party,
  email TEXT NOT NULL,
  name TEXT NOT NULL,
  role INTEGER NOT NULL CHECK (role BETWEEN 1 AND 5),                 -- v1.UserRole
  token_id TEXT NOT NULL UNIQUE,
  secret_hmac BLOB NOT NULL CHECK (length(secret_hmac) = 32),
  created_us INTEGER NOT NULL,
  disabled_us INTEGER NOT NULL                                        -- 0: not disabled
) STRICT;
CREATE UNIQUE INDEX user_by_email ON user (party_no, email) WHERE disabled_us = 0;
