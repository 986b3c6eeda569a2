/* Pins: what a remote source resolved to. */
#include "base/clock.h"
#include "runtime/store_internal.h"

int pin_find(struct store *s, const char *source, struct arena *a, const char **pin, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_PIN_FIND, err);
	int found = -1;

	if (!st)
		return -1;
	sqlite3_bind_text(st, 1, source, -1, SQLITE_STATIC);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		*pin = arena_strndup(a, (const char *)sqlite3_column_text(st, 0),
				     (size_t)sqlite3_column_bytes(st, 0));
		found = 1;
	} else if (code == SQLITE_DONE) {
		found = 0;
	} else {
		store_sql_error(s, "looking for a pin", err);
	}
	sqlite3_reset(st);
	return found;
}

int pin_record(struct store *s, const char *source, const char *pin, struct error *err)
{
	bool view = s->tx == TX_READ;

	if (store_begin(s, false, err))
		return -1;
	sqlite3_stmt *st = store_stmt(s, SQL_PIN_PUT, err);
	if (st) {
		sqlite3_bind_text(st, 1, source, -1, SQLITE_STATIC);
		sqlite3_bind_text(st, 2, pin, -1, SQLITE_STATIC);
		sqlite3_bind_int64(st, 3, clock_wall_ms());
	}
	if (!st || store_step_done(s, st, "recording a pin", err)) {
		store_rollback(s);
		return -1;
	}
	if (store_commit(s, "recording a pin", err))
		return -1;
	return view ? store_read_begin(s, err) : 0;
}
