/* The words of the history: what listings, JSON and the database's readers call a status. */
#include "runtime/rundb.h"

const char *stage_status_name(enum stage_status s)
{
	static const char *const names[] = {"unknown", "pending", "running",     "cached",
					    "done",    "failed",  "interrupted", "skipped"};

	return (size_t)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

const char *run_status_name(enum run_status s)
{
	static const char *const names[] = {"running", "done", "failed", "interrupted", "crashed"};

	return (size_t)s < sizeof names / sizeof *names ? names[s] : "crashed";
}
