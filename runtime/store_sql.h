/* The database's schema and every statement that runs on it, in one place. The meaning of each table and column is
 * in docs/formats.md. */
#ifndef RUNTIME_STORE_SQL_H
#define RUNTIME_STORE_SQL_H

#define STORE_APPLICATION_ID 0x616e6e6c /* "annl", at byte 68 of the file */
#define STORE_SCHEMA_VERSION 1          /* PRAGMA user_version */

/* What planning touches (results, blobs) is narrow and apart from what it does not (details, bytes), and is found by an
 * integer, the first 8 bytes of the digest, which SQLite seeks twice as fast as the digest. The whole digest is compared
 * too: of two that share 8 bytes the later one replaces the other, which is then found missing and made again. */
#define STORE_SCHEMA                                                                                         \
	"CREATE TABLE blobs(id INTEGER PRIMARY KEY, digest BLOB NOT NULL, size INTEGER NOT NULL,"            \
	" inside INTEGER NOT NULL);"                                                                         \
	"CREATE TABLE blob_data(id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"                               \
	"CREATE TABLE trees(digest BLOB PRIMARY KEY, manifest BLOB NOT NULL) WITHOUT ROWID;"                 \
	"CREATE TABLE results(id INTEGER PRIMARY KEY, key BLOB NOT NULL, outputs BLOB NOT NULL, first "      \
	"INTEGER);"                                                                                          \
	"CREATE TABLE result_details(key BLOB PRIMARY KEY, kind TEXT NOT NULL, version INTEGER NOT NULL,"    \
	" facts BLOB NOT NULL, preimage BLOB NOT NULL, finished_ms INTEGER NOT NULL, seconds REAL NOT NULL," \
	" run INTEGER NOT NULL) WITHOUT ROWID;"                                                              \
	"CREATE TABLE checkpoints(key BLOB PRIMARY KEY, step INTEGER NOT NULL, digest BLOB NOT NULL,"        \
	" size INTEGER NOT NULL) WITHOUT ROWID;"                                                             \
	"CREATE TABLE pins(source TEXT PRIMARY KEY, pin TEXT NOT NULL, recorded_ms INTEGER NOT NULL) "       \
	"WITHOUT ROWID;"                                                                                     \
	"CREATE TABLE statcache(dev INTEGER, inode INTEGER, size INTEGER NOT NULL, mtime_ns INTEGER NOT "    \
	"NULL,"                                                                                              \
	" ctime_ns INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(dev, inode)) WITHOUT ROWID;"          \
	"CREATE TABLE texts(digest BLOB PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;"                    \
	"CREATE TABLE runs(id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, file TEXT NOT "     \
	"NULL,"                                                                                              \
	" status INTEGER NOT NULL, exit_code INTEGER NOT NULL, started_ms INTEGER NOT NULL,"                 \
	" finished_ms INTEGER NOT NULL, graph BLOB NOT NULL, command TEXT NOT NULL, params BLOB NOT NULL,"   \
	" stages BLOB NOT NULL);"                                                                            \
	"CREATE INDEX runs_of ON runs(pipeline, id);"                                                        \
	"CREATE TABLE run_stages(run INTEGER, stage INTEGER, name TEXT NOT NULL, kind TEXT NOT NULL,"        \
	" status INTEGER NOT NULL, reason TEXT, key BLOB, attempts INTEGER NOT NULL, seconds REAL NOT NULL," \
	" user_seconds REAL NOT NULL, system_seconds REAL NOT NULL, max_rss INTEGER NOT NULL, error TEXT,"   \
	" PRIMARY KEY(run, stage)) WITHOUT ROWID;"                                                           \
	"CREATE TABLE stage_keys(pipeline TEXT, stage TEXT, run INTEGER, key BLOB NOT NULL, good INTEGER "   \
	"NOT NULL,"                                                                                          \
	" PRIMARY KEY(pipeline, stage, run)) WITHOUT ROWID;"                                                 \
	"CREATE TABLE stage_seconds(pipeline TEXT, stage TEXT, seconds REAL NOT NULL,"                       \
	" PRIMARY KEY(pipeline, stage)) WITHOUT ROWID;"                                                      \
	"CREATE TABLE logs(run INTEGER, line_number INTEGER, stage INTEGER NOT NULL, attempt INTEGER NOT "   \
	"NULL,"                                                                                              \
	" stream TEXT NOT NULL, wall_ms INTEGER NOT NULL, line TEXT NOT NULL,"                               \
	" PRIMARY KEY(run, line_number)) WITHOUT ROWID;"                                                     \
	"CREATE TABLE metrics(run INTEGER, stage INTEGER, name TEXT, step INTEGER, value REAL,"              \
	" PRIMARY KEY(run, stage, name, step)) WITHOUT ROWID;"

#define RUN_COLUMNS                                                                                          \
	"id, pipeline, file, status, exit_code, started_ms, finished_ms, graph, command, params, stages"

/* X(NAME, sql): prepared at its first use and kept until the store is closed. */
#define STORE_STATEMENTS(X)                                                                                  \
	X(BEGIN_READ, "BEGIN")                                                                               \
	X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                                    \
	X(COMMIT, "COMMIT")                                                                                  \
	X(ROLLBACK, "ROLLBACK")                                                                              \
	X(DATA_VERSION, "PRAGMA data_version")                                                               \
	X(BLOB_FIND, "SELECT size, inside FROM blobs WHERE id = ?1 AND digest = ?2")                         \
	X(BLOB_PUT, "INSERT OR REPLACE INTO blobs VALUES(?1, ?2, ?3, ?4)")                                   \
	X(BLOB_DATA_PUT, "INSERT OR REPLACE INTO blob_data VALUES(?1, ?2)")                                  \
	X(BLOB_DATA_GET, "SELECT bytes FROM blob_data WHERE id = ?1")                                        \
	X(TREE_FIND, "SELECT manifest FROM trees WHERE digest = ?1")                                         \
	X(TREE_PUT, "INSERT OR IGNORE INTO trees VALUES(?1, ?2)")                                            \
	X(RESULT_FIND,                                                                                       \
	  "SELECT r.outputs, b.inside, b.digest FROM results r LEFT JOIN blobs b ON b.id = r.first"          \
	  " WHERE r.id = ?1 AND r.key = ?2")                                                                 \
	X(RESULT_PUT, "INSERT OR REPLACE INTO results VALUES(?1, ?2, ?3, ?4)")                               \
	X(DETAILS_FIND,                                                                                      \
	  "SELECT kind, version, facts, preimage, finished_ms, seconds, run FROM result_details"             \
	  " WHERE key = ?1")                                                                                 \
	X(DETAILS_PUT, "INSERT OR REPLACE INTO result_details VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")       \
	X(CHECKPOINT_FIND, "SELECT step, digest, size FROM checkpoints WHERE key = ?1")                      \
	X(CHECKPOINT_PUT, "INSERT OR REPLACE INTO checkpoints VALUES(?1, ?2, ?3, ?4)")                       \
	X(CHECKPOINT_DROP, "DELETE FROM checkpoints WHERE key = ?1")                                         \
	X(PIN_FIND, "SELECT pin FROM pins WHERE source = ?1")                                                \
	X(PIN_PUT, "INSERT OR REPLACE INTO pins VALUES(?1, ?2, ?3)")                                         \
	X(STAT_FIND, "SELECT size, mtime_ns, ctime_ns, digest FROM statcache WHERE dev = ?1 AND inode = ?2") \
	X(STAT_PUT, "INSERT OR REPLACE INTO statcache VALUES(?1, ?2, ?3, ?4, ?5, ?6)")                       \
	X(TEXT_FIND, "SELECT bytes FROM texts WHERE digest = ?1")                                            \
	X(TEXT_HAS, "SELECT 1 FROM texts WHERE digest = ?1")                                                 \
	X(TEXT_PUT, "INSERT OR IGNORE INTO texts VALUES(?1, ?2)")                                            \
	X(RUN_PUT,                                                                                           \
	  "INSERT INTO runs(pipeline, file, status, exit_code, started_ms, finished_ms, graph, command,"     \
	  " params, stages) VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9)")                                  \
	X(RUN_END, "UPDATE runs SET status = ?2, exit_code = ?3, finished_ms = ?4 WHERE id = ?1")            \
	X(RUN_CRASHED, "UPDATE runs SET status = ?2 WHERE id = ?1 AND status = ?3")                          \
	X(RUN_BY_ID, "SELECT " RUN_COLUMNS " FROM runs WHERE id = ?1")                                       \
	X(RUN_NEWEST, "SELECT " RUN_COLUMNS " FROM runs ORDER BY id DESC LIMIT ?1")                          \
	X(RUN_NEWEST_OF, "SELECT " RUN_COLUMNS " FROM runs WHERE pipeline = ?1 ORDER BY id DESC LIMIT 1")    \
	X(RUN_LATEST_OF, "SELECT id, stages FROM runs WHERE pipeline = ?1 ORDER BY id DESC LIMIT 1")         \
	X(RUN_NEXT, "SELECT seq FROM sqlite_sequence WHERE name = 'runs'")                                   \
	X(RUN_STATUS, "SELECT status, exit_code, finished_ms FROM runs WHERE id = ?1")                       \
	X(RUN_IDS,                                                                                           \
	  "SELECT id, stages FROM runs WHERE pipeline = ?1 AND id <= ?2 AND id >= ?3 ORDER BY id DESC")      \
	X(RUN_STAGE_PUT,                                                                                     \
	  "INSERT OR REPLACE INTO run_stages VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,"           \
	  " ?12, ?13)")                                                                                      \
	X(RUN_STAGES, "SELECT stage, name, kind, status, reason, key, attempts, seconds, user_seconds,"      \
		      " system_seconds, max_rss, error FROM run_stages WHERE run = ?1 ORDER BY stage")       \
	X(STAGE_KEY_PUT, "INSERT OR REPLACE INTO stage_keys VALUES(?1, ?2, ?3, ?4, ?5)")                     \
	X(STAGE_KEYS,                                                                                        \
	  "SELECT run, key, good FROM stage_keys WHERE pipeline = ?1 AND stage = ?2 ORDER BY run DESC")      \
	X(SECONDS_PUT, "INSERT OR REPLACE INTO stage_seconds VALUES(?1, ?2, ?3)")                            \
	X(SECONDS_FIND, "SELECT seconds FROM stage_seconds WHERE pipeline = ?1 AND stage = ?2")              \
	X(LOG_PUT, "INSERT OR REPLACE INTO logs VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")                         \
	X(LOGS,                                                                                              \
	  "SELECT stage, attempt, stream, wall_ms, line FROM logs WHERE run = ?1 ORDER BY line_number")      \
	X(METRIC_PUT, "INSERT OR REPLACE INTO metrics VALUES(?1, ?2, ?3, ?4, ?5)")                           \
	X(METRICS, "SELECT stage, name, step, value FROM metrics WHERE run = ?1 ORDER BY stage, name, step")

#endif
