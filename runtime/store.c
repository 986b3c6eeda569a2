/* The database: opening, creating, statements, transactions, errors. */
#include "runtime/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/store_internal.h"

/* Frames (pages) of the write-ahead log at which it is written back into the database: while running, and when a
 * process leaves. In between it is left alone, since writing back costs two fsyncs, and reading a short log at the
 * next start costs less. */
enum { WAL_CHECKPOINT_FRAMES = 4000, WAL_LEAVE_FRAMES = 250 };
enum { BUSY_SECONDS = 60 };

static const char *const sql_text[SQL_COUNT] = {
#define STORE_TEXT(name, sql) sql,
	STORE_STATEMENTS(STORE_TEXT)
#undef STORE_TEXT
};

/* ---- errors ---- */

static int disk_full(struct error *err, const char *where, const char *doing)
{
	error_set(err, ERR_INFRA, "%s: disk full%s%s", where, *doing ? " while " : "", doing);
	return error_hint(
		err, "free some space on that file system and run again; nothing half-written was recorded");
}

int store_errno(struct error *err, const char *path)
{
	if (errno == ENOSPC || errno == EDQUOT)
		return disk_full(err, path, "");
	return error_errno(err, error_class_of_errno(errno), "%s", path);
}

int store_sql_error(struct store *s, const char *doing, struct error *err)
{
	int code = sqlite3_errcode(s->db), system = sqlite3_system_errno(s->db);

	switch (code & 0xff) {
	case SQLITE_FULL: return disk_full(err, s->dir, doing);
	case SQLITE_IOERR:
		if (system == ENOSPC || system == EDQUOT)
			return disk_full(err, s->dir, doing);
		error_set(err, ERR_INFRA, "%s/anneal.db: %s while %s: %s", s->dir, sqlite3_errmsg(s->db),
			  doing, system ? strerror(system) : "unknown cause");
		return error_hint(err, "is the disk full or failing?");
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		error_set(err, ERR_INFRA, "%s/anneal.db is damaged (%s) while %s", s->dir,
			  sqlite3_errmsg(s->db), doing);
		return error_hint(err, "move %s away and run again: everything in it can be made anew",
				  s->dir);
	case SQLITE_BUSY:
		error_set(err, ERR_INFRA, "%s/anneal.db: another process kept it locked for %d s while %s",
			  s->dir, BUSY_SECONDS, doing);
		return error_hint(err,
				  "look for a stopped or hanging anneal process that uses this directory");
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
	case SQLITE_AUTH:
		return error_set(err, ERR_USAGE, "%s/anneal.db cannot be opened for this while %s: %s",
				 s->dir, doing, system ? strerror(system) : sqlite3_errmsg(s->db));
	default:
		return error_set(err, ERR_INFRA, "%s/anneal.db: %s while %s", s->dir, sqlite3_errmsg(s->db),
				 doing);
	}
}

int store_want_write(struct store *s, struct error *err)
{
	if (s->readonly)
		return error_set(err, ERR_USAGE, "%s is open for reading only", s->dir);
	return 0;
}

/* ---- statements and transactions ---- */

sqlite3_stmt *store_stmt(struct store *s, enum store_statement which, struct error *err)
{
	sqlite3_stmt *st = s->statements[which];

	if (!st) {
		if (sqlite3_prepare_v3(s->db, sql_text[which], -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) !=
		    SQLITE_OK) {
			store_sql_error(s, "reading the schema", err);
			return NULL;
		}
		s->statements[which] = st;
	}
	return st;
}

int store_step_done(struct store *s, sqlite3_stmt *st, const char *doing, struct error *err)
{
	int failed = sqlite3_step(st) == SQLITE_DONE ? 0 : store_sql_error(s, doing, err);

	sqlite3_reset(st);
	return failed;
}

static int run(struct store *s, enum store_statement which, const char *doing, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, which, err);

	return st ? store_step_done(s, st, doing, err) : -1;
}

int store_read_begin(struct store *s, struct error *err)
{
	if (s->tx != TX_NONE)
		return 0;
	if (run(s, SQL_BEGIN_READ, "starting to read", err))
		return -1;
	s->tx = TX_READ;
	return 0;
}

void store_read_end(struct store *s)
{
	if (s->tx != TX_READ)
		return;
	run(s, SQL_COMMIT, "reading", NULL);
	s->tx = TX_NONE;
}

int store_begin(struct store *s, bool durable, struct error *err)
{
	store_read_end(s);
	if (store_want_write(s, err))
		return -1;
	if (durable != s->durable) { /* cannot be changed inside a transaction */
		const char *sql = durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL";
		if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
			return store_sql_error(s, "choosing durability", err);
		s->durable = durable;
	}
	if (run(s, SQL_BEGIN_WRITE, "waiting to write", err))
		return -1;
	s->tx = TX_WRITE;
	return 0;
}

int store_commit(struct store *s, const char *doing, struct error *err)
{
	if (run_writer_flush(s, err) || run(s, SQL_COMMIT, doing, err)) {
		store_rollback(s);
		return -1;
	}
	s->tx = TX_NONE;
	s->commits++;
	return 0;
}

void store_rollback(struct store *s)
{
	/* A full disk rolls back by itself. */
	if (s->tx == TX_WRITE && !sqlite3_get_autocommit(s->db))
		run(s, SQL_ROLLBACK, "rolling back", NULL);
	s->tx = TX_NONE;
}

/* SQLite's own waiting grows to 100 ms between two looks; a commit here takes well under one. */
static int wait_busy(void *arg, int count)
{
	static _Thread_local uint64_t since;

	(void)arg;
	if (count == 0)
		since = clock_mono_ns();
	else if (clock_mono_ns() - since > (uint64_t)BUSY_SECONDS * 1000000000)
		return 0;
	usleep(count < 5 ? 300 : count < 50 ? 2000 : 10000);
	return 1;
}

static int after_commit(void *arg, sqlite3 *db, const char *name, int frames)
{
	struct store *s = arg;

	s->wal_frames = frames;
	if (frames >= WAL_CHECKPOINT_FRAMES)
		sqlite3_wal_checkpoint_v2(db, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	return SQLITE_OK;
}

/* ---- creating ---- */

static int create_schema(const char *path, struct error *err)
{
	struct store s = {.dir = (char *)(uintptr_t)path};
	char version[96];

	snprintf(version, sizeof version, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
		 STORE_APPLICATION_ID, STORE_SCHEMA_VERSION);
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	int failed =
		sqlite3_open_v2(path, &s.db, flags, NULL) != SQLITE_OK ||
		sqlite3_exec(
			s.db,
			"PRAGMA synchronous=OFF; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;"
			"BEGIN; " STORE_SCHEMA,
			NULL, NULL, NULL) != SQLITE_OK ||
		sqlite3_exec(s.db, version, NULL, NULL, NULL) != SQLITE_OK;
	if (failed)
		store_sql_error(&s, "creating it", err);
	if (sqlite3_close(s.db) != SQLITE_OK && !failed)
		failed = error_set(err, ERR_INFRA, "%s: cannot be closed", path);
	return failed ? -1 : 0;
}

static int sync_file(const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0) {
		store_errno(err, path);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

/* Makes the database whole under another name and renames it into place, so that nobody ever opens half of one. Under a
 * lock, because what an old database of that name left behind (-wal) has to go first. */
static int create_database(const char *dir, const char *db, struct error *err)
{
	static const char *const folders[] = {"blobs", "staging", "leases", "runs", "checkpoints"};
	static const char ignore[] = "*\n";
	struct held_dir tmp = {NULL, -1};
	char *path = NULL;
	int failed = 0;

	for (size_t i = 0; !failed && i < sizeof folders / sizeof *folders; i++) {
		path = path_join(dir, folders[i]);
		failed = dir_create(path, err);
		free(path);
	}
	if (failed)
		return -1;
	path = path_join(dir, "create.lock");
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		failed = store_errno(err, path);
	free(path);
	path = NULL;
	if (failed || path_exists(db))
		goto out;
	failed = staging_make(dir, &tmp, err);
	if (failed)
		goto out;
	path = path_join(tmp.path, "anneal.db");
	struct strbuf wal = STRBUF_INIT, shm = STRBUF_INIT;
	strbuf_addf(&wal, "%s-wal", db);
	strbuf_addf(&shm, "%s-shm", db);
	unlink(wal.data);
	unlink(shm.data);
	strbuf_free(&wal);
	strbuf_free(&shm);
	failed = create_schema(path, err) || sync_file(path, err);
	if (!failed && rename(path, db) < 0)
		failed = store_errno(err, db);
	if (!failed)
		failed = dir_sync(dir, err);
	free(path);
	path = path_join(dir, ".gitignore");
	if (!failed && !path_exists(path))
		failed = file_write_atomic(path, ignore, sizeof ignore - 1, err);
out:
	if (tmp.path) {
		tree_remove(tmp.path, NULL);
		close(tmp.fd);
		free(tmp.path);
	}
	free(path);
	if (lock >= 0)
		close(lock);
	return failed ? -1 : 0;
}

/* ---- opening ---- */

static int pragma_int(struct store *s, const char *sql, int64_t *out, struct error *err)
{
	sqlite3_stmt *st;
	int failed = -1;

	if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) != SQLITE_OK)
		return store_sql_error(s, "opening it", err);
	if (sqlite3_step(st) == SQLITE_ROW) {
		*out = sqlite3_column_int64(st, 0);
		failed = 0;
	} else {
		store_sql_error(s, "opening it", err);
	}
	sqlite3_finalize(st);
	return failed;
}

static int check_version(struct store *s, struct error *err)
{
	int64_t application = 0, version = 0;

	if (pragma_int(s, "PRAGMA application_id", &application, err) ||
	    pragma_int(s, "PRAGMA user_version", &version, err))
		return -1;
	if (application != STORE_APPLICATION_ID) {
		error_set(err, ERR_INFRA, "%s/anneal.db is not a database of anneal", s->dir);
		return error_hint(err, "move it away, or choose another state directory");
	}
	if (version > STORE_SCHEMA_VERSION) {
		error_set(err, ERR_INFRA,
			  "%s/anneal.db was made by a newer anneal (schema %lld, this one knows %d)", s->dir,
			  (long long)version, STORE_SCHEMA_VERSION);
		return error_hint(err, "use that version, or choose another state directory");
	}
	if (version < STORE_SCHEMA_VERSION)
		return error_set(err, ERR_INFRA,
				 "%s/anneal.db has schema %lld, which no release of anneal has made", s->dir,
				 (long long)version);
	return 0;
}

static int open_database(struct store *s, const char *path, struct error *err)
{
	int flags = (s->readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) | SQLITE_OPEN_NOMUTEX |
		    SQLITE_OPEN_EXRESCODE;

	if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK)
		return s->db ? store_sql_error(s, "opening it", err)
			     : error_set(err, ERR_INFRA, "%s: out of memory", path);
	sqlite3_busy_handler(s->db, wait_busy, NULL);
	sqlite3_wal_hook(s->db, after_commit, s);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if (check_version(s, err))
		return -1;
	/* secure_delete, where a distribution turns it on, would overwrite every dropped blob with zeros. */
	if (sqlite3_exec(
		    s->db,
		    "PRAGMA synchronous=NORMAL; PRAGMA cache_size=-32768; PRAGMA mmap_size=268435456;"
		    "PRAGMA journal_size_limit=16777216; PRAGMA secure_delete=OFF; PRAGMA temp_store=MEMORY",
		    NULL, NULL, NULL) != SQLITE_OK)
		return store_sql_error(s, "opening it", err);
	return 0;
}

int store_open(const char *dir, bool readonly, struct store **out, struct error *err)
{
	struct store *s = NULL;
	char *path = path_join(dir, "anneal.db"), *real = NULL;
	int failed = -1;

	*out = NULL;
	/* Counting every allocation under a global lock costs a fifth of a look-up. Too late, and harmless, when somebody
	 * has used SQLite before. */
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
	if (!path_exists(path)) {
		if (readonly) {
			error_set(err, ERR_USAGE, "no runs yet here: %s is not there", path);
			error_hint(err, "`anneal run PIPELINE` makes it");
			goto out;
		}
		if (dir_create(dir, err) || create_database(dir, path, err))
			goto out;
	}
	real = realpath(dir, NULL);
	if (!real) {
		store_errno(err, dir);
		goto out;
	}
	s = xcalloc(1, sizeof *s);
	s->dir = real;
	s->readonly = readonly;
	s->blobs_fd = -1;
	free(path);
	path = path_join(real, "anneal.db");
	failed = open_database(s, path, err);
	if (failed) {
		store_close(s);
		goto out;
	}
	if (!readonly)
		staging_clean(real);
	*out = s;
out:
	free(path);
	return failed;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	store_read_end(s);
	run_writer_free(s);
	run_tables_free(s);
	for (size_t i = 0; i < s->nstaging; i++) {
		tree_remove(s->staging[i].path, NULL);
		close(s->staging[i].fd);
		free(s->staging[i].path);
	}
	free(s->staging);
	for (size_t i = 0; i < SQL_COUNT; i++)
		sqlite3_finalize(s->statements[i]);
	if (s->db && s->wal_frames >= WAL_LEAVE_FRAMES) {
		sqlite3_busy_handler(s->db, NULL, NULL); /* somebody else is at it: he leaves last */
		sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	}
	sqlite3_close(s->db);
	if (s->blobs_fd >= 0)
		close(s->blobs_fd);
	free(s->dir);
	free(s);
}

const char *store_dir(const struct store *s)
{
	return s->dir;
}

struct sqlite3 *store_db(struct store *s)
{
	return s->db;
}

int store_blobs_fd(struct store *s, struct error *err)
{
	if (s->blobs_fd < 0) {
		char *path = path_join(s->dir, "blobs");
		s->blobs_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (s->blobs_fd < 0 && errno == ENOENT && !s->readonly && dir_create(path, NULL) == 0)
			s->blobs_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (s->blobs_fd < 0)
			store_errno(err, path);
		free(path);
	}
	return s->blobs_fd;
}
